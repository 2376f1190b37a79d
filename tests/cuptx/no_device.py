#!/usr/bin/env python3
"""Runs programs that nvcc built with NVIDIA's own libraries where no GPU is to be seen: each has to say so and to end in order.

    no_device.py --libraries DIR PROGRAM..

Standard library only; ends with `N passed, M failed`.
"""
import argparse
import os
import pathlib
import subprocess
import sys

STATUS, TEXT = 77, "no CUDA device"


def judge(program, libraries):
    """What is wrong, or ''."""
    if b"libcudart.so" not in program.read_bytes():
        return "does not use libcudart"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "LD_LIBRARY_PATH": libraries}
    try:
        r = subprocess.run([program.resolve()], env=env, capture_output=True, text=True, errors="replace", timeout=60)
    except subprocess.TimeoutExpired:
        return "does not end within 60 seconds"
    output = (r.stdout + r.stderr).strip()
    if r.returncode != STATUS or TEXT not in output:
        return f"ends with {r.returncode} and says: {output[-300:] or 'nothing'}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", required=True, help="the folder of NVIDIA's libcudart and libcublas")
    parser.add_argument("program", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    failed = 0
    for program in args.program:
        bad = judge(program, args.libraries)
        failed += bad != ""
        print(f"{'FAIL' if bad else 'ok  '} {program.name}" + (f": {bad}" if bad else ""))
    print(f"{len(args.program) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
