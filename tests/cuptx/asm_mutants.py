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
    "mma_c_swapped": ("{%8,%9}, {%0,%1,%2,%3};", "{%8,%9}, {%1,%0,%2,%3};"),
    "mma_halves_swapped": ("{%4,%5,%6,%7}, {%8,%9}", "{%6,%7,%4,%5}, {%8,%9}"),
    "commit_lost": ('asm volatile("cp.async.commit_group;\\n" ::: "memory");', ""),
    "wait_lost": ('asm volatile("cp.async.wait_group %0;\\n" ::"n"(N) : "memory");', ""),
    "copy_beside": ("cp.async.cg.shared.global [%0], [%1], 16, %2;",
                    "cp.async.cg.shared.global [%0], [%1+16], 16, %2;"),
    "matrices_rotated": ("x4.shared.b16 {%0,%1,%2,%3}", "x4.shared.b16 {%1,%2,%3,%0}"),
    "row_beside": ("x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];",
                   "x4.trans.shared.b16 {%0,%1,%2,%3}, [%4+16];"),
    "wait_one_more": ("cp.async.wait_group %0;\\n\" ::\"n\"(N)", "cp.async.wait_group %0;\\n\" ::\"n\"(N + 1)"),
    "copy_always_whole": ("[%0], [%1], 16, %2;", "[%0], [%1], 16;"),
    "copy_half": ("int n = valid ? 16 : 0;", "int n = valid ? 8 : 0;"),
    "matrices_swapped": ("x4.trans.shared.b16 {%0,%1,%2,%3}", "x4.trans.shared.b16 {%0,%2,%1,%3}"),
    "not_transposed": ("x4.trans.shared.b16", "x4.shared.b16"),
    "always_transposed": ("x4.shared.b16", "x4.trans.shared.b16"),
}


def build(args, name, text, folder):
    """The program with this text for compat.cuh; None: it does not build."""
    changed = pathlib.Path(folder) / name / "kernels/cuda"
    changed.mkdir(parents=True)
    (changed / "compat.cuh").write_text(text)
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


def ends(args, name, text):
    """How the program with this text for compat.cuh ends: its status, or None where it is not even run."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(args, name, text, folder)
        if program is None:
            return None
        env = {**os.environ, "LD_LIBRARY_PATH": args.libraries}
        r = subprocess.run([program, "product"], env=env, capture_output=True, text=True, errors="replace")
        return None if "cannot open" in r.stderr else r.returncode


def judge(args, name):
    """Whether this mistake is caught; without a name: whether the program is well without one."""
    text = COMPAT.read_text()
    if name is None:
        status = ends(args, "none", text)
        print(f"no mistake: {status}")
        return status == 0
    old, new = MUTANTS[name]
    if text.count(old) != 1:
        print(f"{name}: {text.count(old)} places read {old!r}")
        return False
    status = ends(args, name, text.replace(old, new))
    print(f"{name}: {'caught' if status in (1, -6) else 'NOT caught'} ({status})")
    return status in (1, -6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--libraries", required=True)
    parser.add_argument("objects", nargs="+")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    verdicts = [judge(args, name) for name in [None, *MUTANTS]]
    print(f"{sum(verdicts)} passed, {len(verdicts) - sum(verdicts)} failed")
    return not all(verdicts)


if __name__ == "__main__":
    sys.exit(main())
