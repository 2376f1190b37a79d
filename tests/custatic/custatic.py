#!/usr/bin/env python3
"""What nvcc makes of kernels/cuda, without a GPU: flags, registers, occupancy, instructions.

    custatic.py toolkit ...            the tests of this folder's tools: planted mistakes, operation numbers
    custatic.py kernels ...            compiles kernels/cuda for sm_80 and sm_90 and judges it by kernels.table
    custatic.py kernels ... --update   the same, and writes what is measured into kernels.table, and docs/cuda_roofline.md

Standard library only. Each check is one test; the last line is `N passed, N failed`.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import kernel_table
import ptx
import roofline
import toolkit

HERE = pathlib.Path(__file__).resolve().parent
ROOT, TABLE, UNKNOWN = toolkit.ROOT, HERE / "kernels.table", kernel_table.UNKNOWN
NEVER = ("LDL", "STL", "LD", "ST")
# What the PTX has, the machine code must have.
KEPT = {"HMMA": ("mma.sync",), "LDSM": ("ldmatrix",), "LDGSTS": ("cp.async.cg", "cp.async.ca")}


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def add(self, name, bad):
        """bad: what is wrong, a sentence each."""
        self.passed, self.failed = self.passed + (not bad), self.failed + bool(bad)
        print(f"{'FAIL' if bad else 'ok  '} {name}", *bad, sep="\n     ", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


# ---- the tests of the tools ----

def planted_flags(args, n, says):
    """A file that nvcc has to refuse."""
    status, output, _ = toolkit.compile_cu(args.nvcc, args.planted, args.out / f"planted{n}", (80,), [f"-DPLANTED={n}"])
    if status == 0:
        return ["nvcc takes it"]
    return [] if re.search(says, output, re.I) else [f"refused, but not for {says!r}: {output.strip()[-300:]}"]


def planted_ptx(args):
    """[(name, what is wrong)]: kernels that nvcc takes and the lint does not, and two that it reads right."""
    folder = args.out / "planted0"
    status, output, _ = toolkit.compile_cu(args.nvcc, args.planted, folder, (80,), ["-DPLANTED=0"])
    if status != 0:
        return [("planted mistakes compile", [output.strip()[-500:]])]
    entries = {e.mangled: e for path in folder.glob("*.ptx") for e in ptx.parse(path.read_text())}
    names = toolkit.demangle(list(entries))
    kernels = {names[m]: e for m, e in entries.items()}
    found = {name: " ".join(ptx.lint(e)) for name, e in kernels.items()}
    expected = {"without_bounds": "no __launch_bounds__", "calls": "calls a function", "generic_address": "generic address",
                "fences": "fence", "doubles": "", "dynamic_shared": "", "dynamic_said": "", "wide": ""}
    results = [(f"planted: {name}", [] if name in found and (text in found[name] if text else not found[name])
                else [f"expected {text!r}: {found.get(name, 'no such kernel')!r}"]) for name, text in expected.items()]
    seen = (kernels["doubles"].f64() > 0, kernels["dynamic_shared"].dynamic, kernels["dynamic_shared"].added,
            kernels["dynamic_said"].added, kernels["wide"].wide_loads(), kernels["wide"].dynamic, kernels["wide"].f64())
    return results + [("planted: FP64, shared memory of the launch, wide loads", [] if seen == (True, True, None, 528, 1, False, 0) else [str(seen)])]


def calibrated(args, sm):
    """Operation numbers of cubin_ops against calibrate.ptx."""
    source, cubin = HERE / "calibrate.ptx", args.out / f"calibrate{sm}.cubin"
    status, output = toolkit.assemble(args.nvcc, source, sm, cubin)
    if status != 0:
        return [output.strip()[-500:]]
    counts, bad = toolkit.read_cubin(args.cubin_ops, cubin), []
    for expect, kernel in re.findall(r"^// expect ([^\n]*)\n\.visible \.entry (\w+)", source.read_text(), re.M):
        for name, value in (e.split("=") for e in expect.split()):
            if counts[kernel][name] != int(value):
                bad.append(f"{kernel}: {counts[kernel][name]} {name}, not {value}")
    return bad


def refuses_others(args):
    """A file that is no cubin is not counted as one."""
    try:
        toolkit.read_cubin(args.cubin_ops, pathlib.Path(sys.executable))
    except ValueError:
        return []
    return ["counted the instructions of something else"]


def occupancy_known(args):
    """Against figures worked out by hand from the limits of a multiprocessor."""
    rows = {(80, 32, 0, 0, 1, 256): 8, (80, 128, 0, 36864, 1, 128): 4, (90, 128, 0, 36864, 1, 128): 4, (80, 32, 0, 81920, 1, 128): 2,
            (90, 32, 0, 230 * 1024, 1, 128): 0, (80, 255, 0, 0, 1, 1024): 0, (90, 40, 49152, 0, 1, 128): 4}
    found = toolkit.occupancy(args.occupancy, list(rows))
    return [f"{row}: {got} blocks, not {want}" for (row, want), got in zip(rows.items(), found) if got != want]


def bars_hold(args):
    """A value at its bar passes, one beyond does not; a table comes back as it was written."""
    measured = {name: 10 for name in kernel_table.NAMES} | {"all": 99}
    bars, key, bad = {name: 10 for name in kernel_table.NAMES}, ("a_cuda:k<1,2>", 80), []
    for name, at_most, _ in kernel_table.COLUMNS:
        beyond = kernel_table.Row(key, 256, 0, bars, measured | {name: 11 if at_most else 9})
        within = kernel_table.Row(key, 256, 0, bars, measured | {name: 9 if at_most else 11})
        if len(kernel_table.breaches(beyond)) != 1 or kernel_table.breaches(within):
            bad.append(f"{name}: {kernel_table.breaches(beyond)}, {kernel_table.breaches(within)}")
    rows = {key: kernel_table.Row(key, 256, 0, bars, measured),
            (key[0], 90): kernel_table.Row((key[0], 90), 128, UNKNOWN, bars | {"shared": UNKNOWN}, measured)}
    kernel_table.write(args.out / "round.table", "13.0.88", rows)
    if kernel_table.read(args.out / "round.table") != ("13.0.88", rows):
        bad.append("a table does not come back as it was written")
    if not kernel_table.breaches(rows[key[0], 90]):
        bad.append("a row without a bar passes")
    return bad


def wrappers(args):
    """The inline PTX of compat.cuh, as nvcc and ptxas have it."""
    kernels, _, bad = compile_one(args, args.wrappers)
    if not bad and len(kernels) != len(toolkit.ARCHITECTURES):
        bad = [f"{len(kernels)} kernels"]
    for k in kernels:
        found = {name: (k.ptx.count(*opcodes), k.code[name]) for name, opcodes in KEPT.items()}
        if found != {"HMMA": (1, 1), "LDSM": (2, 2), "LDGSTS": (1, 1)}:
            bad.append(f"sm_{k.sm}: (in the PTX, in the machine code): {found}")
        bad += wrong_with(k)
    return bad


def check_tools(args):
    checks = Checks()
    with ThreadPoolExecutor(args.jobs) as pool:
        refused = [(f"planted: {name}", pool.submit(planted_flags, args, n, says)) for n, name, says in
                   ((1, "local memory", "local memory"), (2, "spills", "spill"), (3, "default stream", "stream"))]
        read = pool.submit(planted_ptx, args)
        wrapped = pool.submit(wrappers, args)
        for name, future in refused:
            checks.add(name, future.result())
        checks.add("inline PTX of compat.cuh", wrapped.result())
        for name, bad in read.result():
            checks.add(name, bad)
    for sm in toolkit.ARCHITECTURES:
        checks.add(f"operation numbers, sm_{sm}", calibrated(args, sm))
    checks.add("files that are no cubins", refuses_others(args))
    checks.add("occupancy", occupancy_known(args))
    checks.add("bars of the table", bars_hold(args))
    return checks.end()


# ---- the kernels ----

def compile_one(args, source):
    """(kernels, object or None, what is wrong). What the build has compiled for the module is not compiled again."""
    folder = (args.built or args.out) / source.stem
    if args.built and (folder / "output.txt").exists():
        status, output, made = 0, (folder / "output.txt").read_text(), args.built.parent / f"{source.stem}.o"
    else:
        folder = args.out / source.stem
        status, output, made = toolkit.compile_cu(args.nvcc, source, folder)
    if status != 0:
        return [], None, [output.strip()[-2000:]]
    warnings = [line.strip() for line in output.splitlines() if "warning" in line.lower()]
    try:
        return toolkit.read_kernels(args.cubin_ops, output, source, folder), made, warnings
    except ValueError as e:
        return [], None, [*warnings, str(e)]


def wrong_with(kernel):
    """What no kernel may do, whatever its row says."""
    bad = ptx.lint(kernel.ptx)
    if kernel.stack:
        bad.append(f"{kernel.stack} bytes of stack and spills")
    bad += [f"{kernel.code[name]} {name}" for name in NEVER if kernel.code[name]]
    if not kernel.ptx.f64():
        bad += [f"{kernel.code[name]} {name}, no FP64 arithmetic in the PTX" for name in ("DADD", "DMUL", "DFMA") if kernel.code[name]]
    for name, opcodes in KEPT.items():
        if kernel.ptx.count(*opcodes) and not kernel.code[name]:
            bad.append(f"{opcodes[0]} in the PTX, no {name} in the machine code")
    if (kernel.registers + 7) // 8 * 8 * kernel.ptx.threads > 65536:
        bad.append(f"{kernel.registers} registers of {kernel.ptx.threads} threads are more than there are")
    return bad


def judge(kernel, row, committed, same_toolkit):
    """row: as it is now; committed: as the table has it, or None."""
    bad = wrong_with(kernel)
    if kernel.ptx.dynamic and row.added == UNKNOWN:
        return [*bad, "its launches add shared memory: write in kernels.table how many bytes at most (`added`)"]
    if committed is None:
        return [*bad, "no row in kernels.table: custatic.py --update (docs/cuda.md)"]
    if same_toolkit and committed != row:
        now = {"threads": row.threads, "added": row.added, **row.measured}
        old = {"threads": committed.threads, "added": committed.added, **committed.measured}
        bad.append("kernels.table is of another day (custatic.py --update): "
                   + ", ".join(f"{k} {old[k]}, now {now[k]}" for k in now if now[k] != old[k]))
    return bad + kernel_table.breaches(row)


def make_rows(args, kernels, old):
    """{key: Row} of what is there now, with the bars that were there or new ones."""
    def added_to(k):
        if not k.ptx.dynamic or k.ptx.added is not None:
            return k.ptx.added or 0
        return old[k.key()].added if k.key() in old else UNKNOWN

    added = [added_to(k) for k in kernels]
    blocks = toolkit.occupancy(args.occupancy, [(k.sm, k.registers, k.shared, max(n, 0), k.barriers, k.ptx.threads)
                                                for k, n in zip(kernels, added)])
    rows = {}
    for k, n, fitting in zip(kernels, added, blocks):
        measured = kernel_table.measure(k, max(n, 0), fitting)
        bars = kernel_table.new_bars(measured)
        if n == UNKNOWN:
            bars |= {"shared": UNKNOWN, "blocks": UNKNOWN}
        if k.key() in old:
            bars |= {name: bar for name, bar in old[k.key()].bars.items() if bar != UNKNOWN}
        rows[k.key()] = kernel_table.Row(k.key(), k.ptx.threads, n, bars, measured)
    return rows


# ---- the kernels ----

def check_kernels(args):
    checks, kernels, objects = Checks(), [], []
    sources = sorted((ROOT / "kernels/cuda").glob("*.cu"))
    version = toolkit.version(args.nvcc)
    table_version, old = kernel_table.read(TABLE)
    with ThreadPoolExecutor(args.jobs) as pool:
        compiled = [(s, pool.submit(compile_one, args, s)) for s in sources]
        for source, future in compiled:
            found, made, bad = future.result()
            checks.add(f"{source.name} compiles: no spills, no local memory, no warnings", bad)
            kernels += found
            objects.append(made)
    rows = make_rows(args, kernels, old)
    if args.update and None not in objects:
        kernel_table.write(TABLE, version, rows)
        roofline.PAGE.write_text(roofline.page())
        table_version, old = version, rows
    print(f"kernels.table is of toolkit {table_version}, here is {version}"
          + ("" if version == table_version else ": only its bars are judged"))
    for k in kernels:
        checks.add(f"{k.key()[0]} sm_{k.sm}", judge(k, rows[k.key()], old.get(k.key()), version == table_version))
    gone = sorted(f"{name} sm_{sm}" for name, sm in old.keys() - rows.keys()) if None not in objects else []
    checks.add("no rows of kernels that are gone", [f"{g}: custatic.py --update" for g in gone])
    return checks.end()


def here(path):
    """nvcc runs at the root, wherever this was called."""
    return pathlib.Path(path).resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["toolkit", "kernels"])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--cubin-ops", required=True, type=here, help="the program of cubin_ops.c")
    parser.add_argument("--occupancy", required=True, type=here, help="the program of occupancy.c")
    parser.add_argument("--planted", type=here, help="planted_static.cu")
    parser.add_argument("--wrappers", type=here, help="compat_wrappers.cu")
    parser.add_argument("--out", required=True, type=here, help="a folder for what nvcc writes")
    parser.add_argument("--built", type=here, help="where tools/nvcc_unit.py has left what nvcc made of the kernels")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 0) or min(os.cpu_count() or 1, 8))
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    args.out = args.out / args.what
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        sys.exit(check_tools(args) if args.what == "toolkit" else check_kernels(args))
    except (OSError, ValueError, subprocess.SubprocessError):
        traceback.print_exc()
        print("0 passed, 1 failed")
        sys.exit(1)


if __name__ == "__main__":
    main()
