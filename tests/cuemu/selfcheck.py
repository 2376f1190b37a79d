#!/usr/bin/env python3
"""Runs every planted mistake and compares how it ends with what the table promises for this build.

    selfcheck.py --build plain|asan|tsan|msan cuemu_planted bugs.table

Standard library only. The last line is `N passed, N failed`.
"""
import argparse
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

# What each column of the table runs under.
MODES = {
    "fifo": {"CUEMU_ORDER": "0", "CUEMU_STREAMS": "1"},
    "reversed": {"CUEMU_ORDER": "1", "CUEMU_STREAMS": "1"},
    "random": {"CUEMU_ORDER": "7", "CUEMU_STREAMS": "3"},
    "asan": {"ASAN_OPTIONS": "abort_on_error=0", "UBSAN_OPTIONS": "halt_on_error=1"},
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1"},
    "msan": {},
}
COLUMNS = {"plain": ["fifo", "reversed", "random"], "asan": ["asan"], "tsan": ["tsan"], "msan": ["msan"]}
WORDS = {"clean", "wrong", "fault", "abort", "api", "asan", "tsan", "msan", "-"}


def read_table(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    head = lines[0].split()
    rows = {}
    for line in lines[1:]:
        fields = line.split(None, len(head) - 1)
        rows[fields[0]] = dict(zip(head[1:], fields[1:] + [""] * (len(head) - len(fields))))
    bad = [f"{name}: {word}" for name, row in rows.items() for column, word in row.items()
           if column != "text" and word not in WORDS]
    if bad:
        sys.exit("bugs.table: " + ", ".join(bad))
    return rows


def how_it_ended(code, said):
    if "ThreadSanitizer" in said:
        return "tsan"
    if "MemorySanitizer" in said:
        return "msan"
    if "AddressSanitizer" in said or "runtime error:" in said:
        return "asan"
    if code == -signal.SIGABRT and "cuemu: " in said:
        return "abort"
    return {0: "clean", 2: "wrong", 3: "api", -signal.SIGSEGV: "fault", -signal.SIGBUS: "fault"}.get(code, f"status {code}")


def no_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(command, mode):
    # The modes are the table's, whatever the surroundings say.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CUEMU_", "ASAN_", "TSAN_", "UBSAN_"))}
    try:
        r = subprocess.run(command, env={**env, **MODES[mode]}, capture_output=True, timeout=60, preexec_fn=no_core)
    except subprocess.TimeoutExpired:
        return "no end", ""
    said = (r.stdout + r.stderr).decode(errors="replace")
    return how_it_ended(r.returncode, said), said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", choices=COLUMNS, required=True)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("table", type=pathlib.Path)
    args = parser.parse_args()
    table = read_table(args.table)
    names = subprocess.run([args.binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    passed = failed = 0
    for name in sorted(set(names) ^ set(table)):
        print(f"FAIL {name}: only in one of the program and the table")
        failed += 1
    for name, row in table.items():
        for mode in COLUMNS[args.build]:
            if row[mode] == "-" or name not in names:
                continue
            end, said = run([args.binary, name], mode)
            if end == row[mode] and (end not in ("abort", "api") or re.search(row["text"], said)):
                passed += 1
                continue
            failed += 1
            print(f"FAIL {name}, {mode}: {end}, not {row[mode]} {row['text']}".rstrip())
            print("".join(f"    {line}\n" for line in said.splitlines()[:20]), end="")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
