"""kernels.table: what nvcc made of each kernel, and the bars that it has to keep.

A row: file:kernel, sm, threads of its launch bounds, bytes of shared memory that its launches add, `|`, bars, `|`, measured.
`custatic.py --update` writes what is measured and makes rows for new kernels; bars are changed by hand.

Standard library only.
"""
import dataclasses

# (column, True: at most the bar, how a new row's bar comes from what is measured)
COLUMNS = [
    ("regs", True, lambda n: (n + 7) // 8 * 8),  # they are given out by eight
    ("shared", True, None),
    ("blocks", False, None),
    ("wide", False, None),
    ("hmma", False, None),
    ("ldsm", False, None),
    ("cpasync", False, None),
    ("f64", True, lambda n: 0),
]
NAMES = [c[0] for c in COLUMNS]
WIDTHS = {name: max(len(name), 6 if name == "shared" else 3) for name in NAMES}
UNKNOWN = -1  # added bytes of a kernel that does not say them with CU_DYN_SHARED, and bars made of them: written as ?

HEADER = """\
# What nvcc makes of kernels/cuda, and the bars it has to keep. Written by tests/custatic/custatic.py --update, which leaves the
# bars of rows that are there: those are changed by hand, with the reason in the commit; a row that is deleted comes back with
# new bars. added: bytes of shared memory of the launch; a ? is filled in by hand. At most: regs (registers a thread), shared
# (bytes a block, with added), f64 (PTX instructions of FP64 arithmetic). At least: blocks (of `threads`, on one multiprocessor,
# by cuda_occupancy.h), wide (loads of 16 bytes from global memory, in the PTX), hmma, ldsm, cpasync (tensor core, ldmatrix and
# cp.async instructions in the machine code). all: its instructions. Always 0 and not listed: spills, stack, LDL, STL, LD, ST
# (generic addresses).
"""


@dataclasses.dataclass
class Row:
    key: tuple  # (file:kernel, sm)
    threads: int
    added: int
    bars: dict
    measured: dict  # NAMES and "all"


def measure(kernel, added, blocks):
    """What a row says of a kernel (toolkit.Kernel)."""
    values = [kernel.registers, kernel.shared + added, blocks, kernel.ptx.wide_loads(), kernel.code["HMMA"], kernel.code["LDSM"],
              kernel.code["LDGSTS"], kernel.ptx.f64()]
    return dict(zip(NAMES, values)) | {"all": kernel.code["all"]}


def new_bars(measured):
    return {name: make(measured[name]) if make else measured[name] for name, _, make in COLUMNS}


def breaches(row):
    """Where a row's measured values pass its bars; a sentence each."""
    bad = []
    for name, at_most, _ in COLUMNS:
        value, bar = row.measured[name], row.bars[name]
        if bar == UNKNOWN:
            bad.append(f"{name}: no bar yet: custatic.py --update")
        elif value > bar if at_most else value < bar:
            bad.append(f"{name}: {value}, {'at most' if at_most else 'at least'} {bar}")
    return bad


def number(text):
    return UNKNOWN if text == "?" else int(text)


def read(path):
    """(toolkit, {key: Row}); ("", {}) when there is no file."""
    toolkit, rows = "", {}
    for at, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        if line.startswith("toolkit "):
            toolkit = line.split()[1]
        if not line or line.startswith(("#", "toolkit ")):
            continue
        try:
            head, bars, measured = (part.split() for part in line.split("|"))
            name, sm, threads, added = head
            row = Row((name, int(sm)), int(threads), number(added),
                      dict(zip(NAMES, map(number, bars), strict=True)), dict(zip([*NAMES, "all"], map(int, measured), strict=True)))
        except ValueError as e:
            raise ValueError(f"{path.name}:{at}: {e}: {line}") from e
        if row.key in rows:
            raise ValueError(f"{path.name}:{at}: {name} sm_{sm} is there twice")
        rows[row.key] = row
    return toolkit, rows


def write(path, toolkit, rows):
    def shown(n):
        return "?" if n == UNKNOWN else n

    names = " ".join(f"{n:>{WIDTHS[n]}}" for n in NAMES)
    width = max([len(key[0]) for key in rows] + [12])
    lines = [HEADER + f"toolkit {toolkit}", f"# {'file:kernel':<{width - 2}} sm threads  added | {names} | {names}   all"]
    for key in sorted(rows):
        r = rows[key]
        bars, measured = (" ".join(f"{shown(v[n]):>{WIDTHS[n]}}" for n in NAMES) for v in (r.bars, r.measured))
        lines.append(f"{key[0]:<{width}} {key[1]} {r.threads:>7} {shown(r.added):>6} | {bars} | {measured} {r.measured['all']:>5}")
    path.write_text("\n".join(lines) + "\n")
