"""nvcc and what it says: compiles a .cu file for the architectures, reads the registers, the PTX and the machine code of its kernels.

Standard library only.
"""
import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import ptx

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))
from nvcc_unit import ARCHITECTURES, FLAGS  # noqa: E402 (as the module is built)

COMPILING = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
BARRIERS, SHARED = re.compile(r"used (\d+) barriers"), re.compile(r"(\d+) bytes smem")


@dataclasses.dataclass
class Kernel:
    """One kernel for one architecture."""
    file: str  # without its ending: norm_cuda
    mangled: str
    sm: int
    name: str = ""  # without arguments: embed_kernel<TT_Q8_0>
    registers: int = 0  # a thread
    barriers: int = 0
    shared: int = 0  # bytes, without what a launch adds
    stack: int = 0  # bytes; and of spills
    code: dict = dataclasses.field(default_factory=dict)  # operation: count, "all": instructions
    ptx: "ptx.Entry" = None

    def key(self):
        return f"{self.file}:{self.name}", self.sm


def run(command, **options):
    """(exit status, what it printed)"""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


def version(nvcc):
    found = re.search(r"release [\d.]+, V([\d.]+)", run([nvcc, "--version"])[1])
    return found.group(1) if found else "unknown"


def compile_cu(nvcc, source, folder, architectures=ARCHITECTURES, flags=()):
    """(exit status, output, object file); PTX and cubins stay in `folder`. PTX of the first architecture goes into the object too."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    codes = [f"-gencode=arch=compute_{sm},code={f'[sm_{sm},compute_{sm}]' if i == 0 else f'sm_{sm}'}"
             for i, sm in enumerate(architectures)]
    made = folder / f"{source.stem}.o"
    status, output = run([nvcc, *FLAGS, *flags, *codes, "-x", "cu", "-c", "--keep", "--keep-dir", folder, "-o", made, source])
    return status, output, made


def assemble(nvcc, source, sm, target):
    """A PTX file into a cubin."""
    return run([nvcc, f"-arch=sm_{sm}", "-cubin", "-o", target, source])


def read_resources(output, file):
    """The kernels that ptxas -v speaks of."""
    kernels, current = [], None
    for line in output.splitlines():
        if m := COMPILING.search(line):
            current = Kernel(file=file, mangled=m.group(1), sm=int(m.group(2)))
            kernels.append(current)
        elif current and (m := STACK.search(line)):
            current.stack = sum(int(n) for n in m.groups())
        elif current and (m := USED.search(line)):
            current.registers = int(m.group(1))
            current.barriers = int(m.group(1)) if (m := BARRIERS.search(line)) else 0
            current.shared = int(m.group(1)) if (m := SHARED.search(line)) else 0
    return kernels


def read_cubin(cubin_ops, path):
    """{mangled name: {operation: count}}"""
    status, output = run([cubin_ops, path])
    if status != 0:
        raise ValueError(output.strip())
    kernels = {}
    for line in output.splitlines():
        _, name, total, *counts = line.split("\t")
        kernels[name] = {k: int(v) for k, v in (c.split("=") for c in counts)} | {"all": int(total)}
    return kernels


@functools.cache
def enumerators(name):
    """The names of an enum of kernels/*.h that counts from 0."""
    for path in sorted((ROOT / "kernels").glob("*.h")):
        if m := re.search(rf"^typedef enum {name} \{{(.*?)\}}", re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S), re.M | re.S):
            return [] if "=" in m.group(1) else re.findall(r"\w+", m.group(1))
    return []


def enumerator(match):
    name, n = match.group(1), int(match.group(2))
    return enumerators(name)[n] if n < len(enumerators(name)) else match.group(0)


def short_name(demangled):
    """`void embed_kernel<(tt_dtype)0>(int const*, float*)` is embed_kernel<TT_F32>."""
    text = re.sub(r"^void |\(anonymous namespace\)::|_INTERNAL_\w+::", "", demangled)
    text = re.sub(r"\((tt_\w+)\)(\d+)", enumerator, text)
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            text = text[:i]
            break
    return text.replace(" ", "")


def demangle(names):
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, (short_name(n) for n in done.stdout.splitlines())))


def read_kernels(cubin_ops, output, source, folder):
    """The kernels of a file that compile_cu() has compiled, with all that is known of them."""
    kernels = read_resources(output, source.stem)
    for sm in ARCHITECTURES:
        # nvcc names these files as it likes: NAME.compute_80.sm_80.cubin, NAME.compute_90.cubin, NAME.compute_90.ptx
        code, entries = {}, {}
        for path in folder.glob(f"*compute_{sm}*.cubin"):
            code |= read_cubin(cubin_ops, path)
        for path in folder.glob(f"*compute_{sm}*.ptx"):
            entries |= {e.mangled: e for e in ptx.parse(path.read_text())}
        for k in (k for k in kernels if k.sm == sm):
            k.code, k.ptx = code.get(k.mangled), entries.get(k.mangled)
            if k.code is None or k.ptx is None:
                raise ValueError(f"{source.name}: {k.mangled}: no {'machine code' if k.code is None else 'PTX'} for sm_{sm}")
    names = demangle([k.mangled for k in kernels]) if kernels else {}
    for k in kernels:
        k.name = names[k.mangled]
    if len({k.key() for k in kernels}) != len(kernels):
        raise ValueError(f"{source.name}: two kernels with one name")
    return kernels


def occupancy(program, rows):
    """Blocks a multiprocessor for rows (sm, registers, static, dynamic, barriers, threads)."""
    lines = "".join(" ".join(str(n) for n in row) + "\n" for row in rows)
    done = subprocess.run([str(program)], input=lines, capture_output=True, text=True)
    blocks = [int(n) for n in done.stdout.split()]
    if done.returncode != 0 or len(blocks) != len(rows):
        raise ValueError(f"occupancy: {done.stderr.strip() or 'too few answers'}")
    return blocks
