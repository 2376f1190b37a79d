#!/usr/bin/env python3
"""Runs programs that nvcc built on the stand-in CUDA libraries and judges how much of their PTX was executed.

    ptx_coverage.py --libraries DIR --wrappers compat.cuh PROGRAM..

Each program has to succeed. Of each kernel BAR percent of the PTX instructions have to be executed by all programs together, and
every opcode of inline PTX in the wrappers' file. Standard library only; ends with
`N passed, M failed`.
"""
import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BAR = 95.0
ASM = re.compile(r'asm volatile\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
MODES = [{"CUEMU_ORDER": "0", "CUEMU_STREAMS": "1"}, {"CUEMU_ORDER": "7", "CUEMU_STREAMS": "3", "CUEMU_THREADS": "2"}]


def run(program, libraries, mode, report):
    env = {**os.environ, **mode, "LD_LIBRARY_PATH": libraries, "CUPTX_COVERAGE": report}
    r = subprocess.run([pathlib.Path(program).resolve()], env=env, capture_output=True, text=True, errors="replace")
    if r.returncode != 0:
        print(f"{program} {mode}: status {r.returncode}\n{r.stdout[-2000:]}{r.stderr[-2000:]}")
    return r.returncode == 0


def read_report(path):
    """{kernel: {(line, text): executed}}"""
    kernels = collections.defaultdict(dict)
    for line in pathlib.Path(path).read_text().splitlines():
        what, kernel, number, text = line.split(" ", 3)
        key = (int(number), text)
        kernels[kernel][key] = kernels[kernel].get(key, False) or what == "ran"
    return kernels


def judge(kernel, instructions):
    """What is wrong with a kernel's coverage, or ''."""
    percent = 100.0 * sum(instructions.values()) / len(instructions)
    print(f"{percent:5.1f} % of {len(instructions):5} instructions: {kernel}")
    if percent >= BAR:
        return ""
    missed = [f"    {number}: {text}" for (number, text), ran in instructions.items() if not ran]
    return f"{kernel}: {percent:.1f} % executed, the bar is {BAR:g} %; not executed:\n" + "\n".join(missed[:40])


def asm_opcodes(path):
    """The first word of each string of inline PTX."""
    found = []
    for m in ASM.finditer(pathlib.Path(path).read_text()):
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', m.group(1)))
        found += [word for word in re.findall(r"(?:^|\\n|;)\s*([a-z][\w.:]*)", text) if "." in word]
    return sorted(set(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", required=True)
    parser.add_argument("--wrappers", required=True)
    parser.add_argument("programs", nargs="+")
    args = parser.parse_args()
    absent = [p for p in args.programs if not os.path.exists(p)]
    if absent:
        print(f"not built (ninja cuptx-tests): {' '.join(absent)}\n0 passed, 1 failed")
        return True
    passed, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report")
        pathlib.Path(report).touch()
        for program in args.programs:
            for mode in MODES:
                if run(program, args.libraries, mode, report):
                    passed += 1
                else:
                    wrong.append(f"{program} failed")
        kernels = read_report(report)
    verdicts = [judge(kernel, instructions) for kernel, instructions in sorted(kernels.items())]
    ran = {text.split()[1 if text.startswith("@") else 0] for k in kernels.values() for (_, text), r in k.items() if r}
    for opcode in asm_opcodes(args.wrappers):
        verdicts.append("" if opcode in ran else f"{args.wrappers}: {opcode} is executed nowhere")
    if not kernels:
        verdicts.append("no kernel was seen")
    passed += verdicts.count("")
    wrong += [v for v in verdicts if v]
    for v in wrong:
        print(v)
    print(f"{passed} passed, {len(wrong)} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
