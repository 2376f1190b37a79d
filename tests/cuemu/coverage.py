#!/usr/bin/env python3
"""Lines of kernels/cuda, host and device code, that the tests of tier A execute: all, but for those that a table excepts.

    coverage.py --gcov GCOV --table TABLE --objects FOLDER... -- PROGRAM...

FOLDER: where the objects built with --coverage lie (build/.../libNAME.a.p). Every program runs once in each of two modes and
has to succeed. A row of the table is `file | text of the line | reason`. What fails: a line that was not executed and is not
excepted; a row whose line is executed or is not there; a file of kernels/cuda of which no line was seen; a function that
launches and that test_launches.cc, which makes its calls fail one by one, does not call.

Standard library only. Ends with `N passed, N failed`: a file is a test, and so is a program, and the table.
"""
import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = "kernels/cuda/"
# The second mode meets the other side of what depends on the part and on the order.
MODES = [{"CUEMU_ORDER": "0", "CUEMU_STREAMS": "1"}, {"CUEMU_ORDER": "7", "CUEMU_STREAMS": "3", "CUEMU_SM": "90"}]
# Declarations alone: no line of theirs is code.
WITHOUT_CODE = {"kernels/cuda/lane_cuda.h", "kernels/cuda/launch_cuda.h", "kernels/cuda/matvec_cuda.h", "kernels/cuda/panel_cuda.h",
                "kernels/cuda/product_cuda.h"}


def run_programs(programs, into):
    failures = []
    env = {k: v for k, v in os.environ.items() if not k.startswith("CUEMU_")}
    for program in programs:
        for mode in MODES:
            r = subprocess.run(program.split(), env={**env, **mode, "GCOV_PREFIX": str(into)}, capture_output=True, text=True)
            if r.returncode != 0:
                failures.append(f"{program} in {mode}: status {r.returncode}\n{r.stdout}{r.stderr}")
    return failures


def link_notes(folder, into):
    """What gcov wants beside the counts of an object."""
    for note in pathlib.Path(folder).resolve().glob("*.gcno"):
        counts = pathlib.Path(str(into) + str(note)).with_suffix(".gcda")
        counts.parent.mkdir(parents=True, exist_ok=True)
        counts.with_suffix(".gcno").symlink_to(note)
        yield counts


def lines_of(gcov, counts, lines):
    """Adds (file, line) -> executions of an object; one that never ran counts as not executed."""
    name = counts if counts.exists() else counts.with_suffix(".gcno")
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([gcov, "--json-format", str(name)], cwd=out, check=True, capture_output=True)
        for path in pathlib.Path(out).glob("*.gcov.json.gz"):
            for f in json.loads(gzip.decompress(path.read_bytes()))["files"]:
                at = f["file"].find(CODE)
                if at < 0:
                    continue
                for line in f["lines"]:
                    lines[f["file"][at:], line["line_number"]] += line["count"]


def read_table(path):
    rows = []
    for line in pathlib.Path(path).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            rows.append(tuple(part.strip() for part in line.split(" | ", 2)))
            if len(rows[-1]) != 3 or not rows[-1][2]:
                sys.exit(f"{path}: not `file | line | reason`: {line}")
    return rows


def judge(lines, table):
    """Returns (files, what is wrong)."""
    texts = {f: (ROOT / f).read_text().splitlines() for f, _ in lines}
    wrong, excepted, stale = [], {(f, text): 0 for f, text, _ in table}, set()
    for (f, n), count in sorted(lines.items()):
        key = (f, texts[f][n - 1].strip())
        if key in excepted:
            excepted[key] += 1
            if count:
                stale.add(key)
        elif not count:
            wrong.append(f"{f}:{n}: not executed: {key[1]}")
    wrong += [f"{f}: excepted, but executed: {text}" for f, text in sorted(stale)]
    wrong += [f"{f}: excepted, but no such line of code: {text}" for (f, text), n in excepted.items() if n == 0]
    there = {str(p.relative_to(ROOT)) for p in (ROOT / CODE).iterdir() if re.search(r"\.(cu|cuh|h|cc|c)$", p.name)}
    wrong += [f"{f}: no line of it is in the programs" for f in sorted(there - texts.keys() - WITHOUT_CODE)]
    return sorted(texts), wrong


def without_faults():
    """Functions that launch, in no row of the test that makes every call fail."""
    tested = (ROOT / "tests/cuemu/test_launches.cc").read_text()
    declared = [name for header in ("launch_cuda.h", "product_cuda.h")
                for name in re.findall(r"^cudaError_t (tt_cuda_\w+)\(", (ROOT / CODE / header).read_text(), re.M)]
    return [f"{name}: not in test_launches.cc" for name in declared if name + "(s" not in tested] if declared else ["no functions?"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gcov", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--objects", nargs="+", required=True)
    parser.add_argument("programs", nargs="+")
    args = parser.parse_args()
    lines = collections.Counter()
    with tempfile.TemporaryDirectory() as into:
        wrong = run_programs(args.programs, into)
        for folder in args.objects:
            for counts in link_notes(folder, into):
                lines_of(args.gcov, counts, lines)
    if not lines:
        sys.exit("no counts: were the objects built with --coverage?")
    files, misses = judge(lines, read_table(args.table))
    wrong += misses + without_faults()
    print("\n".join(wrong))
    n_run = sum(1 for count in lines.values() if count)
    print(f"{n_run} of {len(lines)} lines of {len(files)} files executed")
    print(f"{len(files) + len(args.programs)} passed, {len(wrong)} failed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
