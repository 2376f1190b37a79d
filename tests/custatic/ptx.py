"""Reads nvcc's PTX: the kernels of a file, what they are made of, and which rules of docs/cuda.md they break.

Standard library only.
"""
import dataclasses
import re

ENTRY = re.compile(r"^(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)", re.M)
BOUNDS = re.compile(r"\.(?:max|req)ntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
OPCODE = re.compile(r"(?:@!?%\w+\s+)?(\.?[a-z][\w.:]*)")
ADDED = re.compile(r"// dynamic shared (\d+)")
EXTERN_SHARED = re.compile(r"\.extern\s+\.shared\b[^;]*?([\w$]+)\[\]")

SPACES = ("global", "shared", "param", "const", "local")
BITS = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}
# Fields of ops.h that are doubles may be moved and converted; arithmetic on them is counted.
F64_MOVES = ("ld", "st", "mov", "cvt", "selp")


@dataclasses.dataclass
class Entry:
    mangled: str
    threads: int  # of its launch bounds; 0: it has none
    dynamic: bool  # uses shared memory whose size the launch says
    added: int  # bytes of it that the kernel expects, of CU_DYN_SHARED in compat.cuh; None: not said
    opcodes: list  # ("ld", "global", "f32")

    def count(self, *names):
        """Instructions whose opcode begins with one of these: "mma", "cp.async.cg"."""
        return sum(".".join(op).startswith(tuple(f"{n}." for n in names)) for op in self.opcodes)

    def wide_loads(self):
        """Loads of 16 bytes from global memory."""
        return sum(op[0] in ("ld", "ldu") and "global" in op and bytes_of(op) >= 16 for op in self.opcodes)

    def f64(self):
        return sum("f64" in op and op[0] not in F64_MOVES for op in self.opcodes)


def bytes_of(op):
    vector = next((int(p[1:]) for p in op if re.fullmatch(r"v[248]", p)), 1)
    width = re.search(r"(\d+)$", op[-1])
    return vector * BITS.get(width.group(1), 0) if width else 0


def block(text, start):
    """(begin, end) of the outermost braces behind `start`. Braces of vectors and of asm blocks are in pairs as well."""
    depth, begin = 0, text.index("{", start)
    for i in range(begin, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return begin + 1, i
    raise ValueError("PTX ends within a kernel")


def opcodes_of(body):
    """Opcodes and directives of the statements of a body, split at their dots."""
    found = []
    for statement in re.split(r"[;{}]", body):
        statement = re.sub(r"^\s*(?:[\w$]+:\s*)*", "", statement)  # labels
        m = OPCODE.match(statement)
        # Behind the braces of a vector its other operands remain: `, [%rd1]`; between them registers: `%f1, %f2`.
        if m and not statement.startswith("%"):
            found.append(tuple(m.group(1).split(".")))
    return found


def parse(text):
    text = re.sub(r"//(?! dynamic shared)[^\n]*", "", text)
    text = re.sub(r"^\s*\.(?:loc|file)\b[^\n]*$", "", text, flags=re.M)
    dynamic = EXTERN_SHARED.findall(text)
    entries = []
    for m in ENTRY.finditer(text):
        begin, end = block(text, m.end())
        bounds, body = BOUNDS.search(text, m.end(), begin), text[begin:end]
        said, body = [int(n) for n in ADDED.findall(body)], ADDED.sub("", body)
        threads = 1
        for n in bounds.groups() if bounds else ["0"]:
            threads *= int(n or 1)
        entries.append(Entry(m.group(1), threads, any(re.search(rf"(?<![\w$]){re.escape(n)}(?![\w$])", body) for n in dynamic),
                             max(said, default=None), opcodes_of(body)))
    return entries


def has_space(op):
    return any(part.startswith(SPACES) for part in op[1:])


def lint(entry):
    """What the kernel does that no kernel may; a sentence each."""
    bad = set()
    if entry.threads == 0:
        bad.add("no __launch_bounds__")
    for op in entry.opcodes:
        text = ".".join(op)
        if "local" in op:
            bad.add(f"local memory ({text})")
        elif op[0] == "call":
            bad.add("calls a function: make it __forceinline__")
        elif op[0] in ("ld", "ldu", "st", "atom", "red") and not has_space(op):
            bad.add(f"generic address ({text}): a pointer that may be of global or of shared memory")
        elif op[0] in ("fence", "membar"):
            bad.add(f"fence ({text}): blocks do not talk to each other, a second kernel combines")
    return sorted(bad)
