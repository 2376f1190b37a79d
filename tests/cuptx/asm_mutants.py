#!/usr/bin/env python3
"""Mistakes in the asm lines of kernels/cuda/compat.cuh, one at a time: test_wrappers as nvcc builds it has to fail for each.

    asm_mutants.py --nvcc NVCC --libraries DIR TEST_OBJECT..

The twins in C++ stay as they are, so nothing else could see these. Standard library only; ends with `N passed, M failed`.
"""
import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPAT = ROOT / "kernels/cuda/compat.cuh"
# name: (what stands there once, what is put there)
MUTANTS = {
    "mma_a_swapped": ("{%4,%5,%6,%7}, {%8,%9}", "{%4,%6,%5,%7}, {%8,%9}"),
    "mma_b_swapped": ("{%4,%5,%6,%7}, {%8,%9}", "{%4,%5,%6,%7}, {%9,%8}"),
    "mma_d_swapped": ('"{%0,%1,%2,%3}, {%4', '"{%0,%2,%1,%3}, {%4'),
    "wait_one_more": ("cp.async.wait_group %0;\\n\" ::\"n\"(N)", "cp.async.wait_group %0;\\n\" ::\"n\"(N + 1)"),
    "copy_always_whole": ("[%0], [%1], 16, %2;", "[%0], [%1], 16;"),
    "copy_half": ("int n = valid ? 16 : 0;", "int n = valid ? 8 : 0;"),
    "matrices_swapped": ("x4.trans.shared.b16 {%0,%1,%2,%3}", "x4.trans.shared.b16 {%0,%2,%1,%3}"),
    "not_transposed": ("x4.trans.shared.b16", "x4.shared.b16"),
    "always_transposed": ("x4.shared.b16", "x4.trans.shared.b16"),
}


def build(args, name, folder):
    """The program with this mistake; None: it does not build."""
    old, new = MUTANTS[name]
    text = COMPAT.read_text()
    if text.count(old) != 1:
        print(f"{name}: {text.count(old)} places read {old!r}")
        return None
    changed = pathlib.Path(folder) / name / "kernels/cuda"
    changed.mkdir(parents=True)
    (changed / "compat.cuh").write_text(text.replace(old, new))
    kernels, program = changed / "kernels.o", changed / "program"
    commands = [[args.nvcc, "-std=c++17", "-gencode", "arch=compute_80,code=compute_80", "--compress-mode=none", "-w",
                 f"-I{folder}/{name}", f"-I{ROOT}", "-c", "-o", kernels, ROOT / "tests/cuptx/wrapper_kernels.cu"],
                [args.nvcc, "-cudart", "shared", "-o", program, kernels, *args.objects, "-lcublas"]]
    for command in commands:
        r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if r.returncode != 0:
            print(f"{name}: does not build: {r.stderr[-500:]}")
            return None
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--libraries", required=True)
    parser.add_argument("objects", nargs="+")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    passed = failed = 0
    for name in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            program = build(args, name, folder)
            caught = False
            if program:
                env = {**os.environ, "LD_LIBRARY_PATH": args.libraries}
                r = subprocess.run([program, "product"], env=env, capture_output=True, text=True, errors="replace")
                caught = r.returncode in (1, -6) and "cannot open" not in r.stderr
                print(f"{name}: {'caught' if caught else 'NOT caught'} ({r.returncode})")
        passed, failed = passed + caught, failed + (not caught)
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
