#!/usr/bin/env python3
"""Runs the meson suites of `make test`, `make test-deep`, `make test-cuda` and `make lint` and adds up what their programs counted.

Standard library only. The last line is `N passed, N failed`; every skip is printed with its reason before it. A program
that counts nothing itself is one test; one that fails without saying how many failed is one failure.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What the programs print at their end: cmocka, pytest, and our own (the same words as this script's last line).
CMOCKA = re.compile(r"^\[  (PASSED|FAILED|SKIPPED) +\] (\d+) test\(s\)", re.M)
PYTEST = re.compile(r"^=*\s*((?:\d+ (?:passed|failed|skipped|error|errors|deselected|xfailed|xpassed|warnings?)(?:, )?)+)"
                    r" in [\d.]+s", re.M)
OWN = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.M)
SKIP_LINE = re.compile(r"^(?:SKIPPED \[\d+\] .*|\[  SKIPPED \] .*|skip(?:ped)?: .*)$", re.M | re.I)

# Every sanitizer's report must end the program, or the test that caused it would pass. libgomp and oneDNN are not
# instrumented, so ThreadSanitizer sees one kernel thread only; races between kernel threads are the job of the
# bitwise one-against-n-threads tests in checkops.
SANITIZERS = {
    "asan": {
        "title": "address and undefined behaviour sanitizers",
        "env": {
            "ASAN_OPTIONS": "abort_on_error=0:detect_stack_use_after_return=1:strict_string_checks=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "KMP_BLOCKTIME": "0",  # the lanes share the cores: nobody spins
            "OMP_NUM_THREADS": "1",  # tests of threads name their number
            "QTTT_TEST_THREADS": "1",
        },
        "leave_out": [],
    },
    "tsan": {
        "title": "thread sanitizer",
        "env": {
            "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:suppressions={ROOT}/tests/tools/tsan.supp",
            "OMP_NUM_THREADS": "1",
            "QTTT_TEST_THREADS": "1",
        },
        "leave_out": ["one-thread"],  # nothing to see (tests/unit/meson.build)
    },
}


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.seconds = 0.0  # of processors: user and system time of all programs that were run
        self.reasons = []

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.seconds += other.seconds
        self.reasons += other.reasons

    def add_record(self, record):
        """One line of meson's testlog.json."""
        text = (record.get("stdout") or "") + "\n" + (record.get("stderr") or "")
        passed, failed, skipped = count_in(text)
        result = record["result"]
        if result == "SKIP":
            lines = [line for line in text.splitlines() if line.strip()]
            self.reasons.append(f"{record['name']}: {lines[-1].strip() if lines else 'no reason printed'}")
            passed, failed, skipped = 0, 0, max(skipped, 1)
        elif result not in ("OK", "EXPECTEDFAIL"):
            failed = max(failed, 1)
        elif passed + failed + skipped == 0:
            passed = 1
        if result != "SKIP":
            self.reasons += [f"{record['name']}: {m.group(0)}" for m in SKIP_LINE.finditer(text)
                             if not CMOCKA.match(m.group(0))]
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


def count_in(text):
    """(passed, failed, skipped) as the program printed them; zeros when it printed none."""
    counts = {"PASSED": 0, "FAILED": 0, "SKIPPED": 0}
    for m in CMOCKA.finditer(text):
        counts[m.group(1)] += int(m.group(2))
    if m := PYTEST.search(text):
        for n, word in re.findall(r"(\d+) (\w+)", m.group(1)):
            key = {"passed": "PASSED", "failed": "FAILED", "error": "FAILED", "errors": "FAILED",
                   "skipped": "SKIPPED", "xfailed": "SKIPPED", "xpassed": "FAILED"}.get(word)
            if key:
                counts[key] += int(n)
    if all_own := list(OWN.finditer(text)):
        m = all_own[-1]
        counts["PASSED"] += int(m.group(1))
        counts["FAILED"] += int(m.group(2))
        counts["SKIPPED"] += int(m.group(3) or 0)
    return counts["PASSED"], counts["FAILED"], counts["SKIPPED"]


def step(title, out=None):
    print(f"\n== {title}", file=out, flush=True)


def run(counts, command, env=None, out=None):
    """out: a file for what it prints; None = the terminal. counts: gets the processor time."""
    with subprocess.Popen([str(c) for c in command], cwd=ROOT, env={**os.environ, **(env or {})}, stdout=out,
                          stderr=out and subprocess.STDOUT) as process:
        _, status, usage = os.wait4(process.pid, 0)  # of this child and those that it waited for: lanes run side by side
        process.returncode = os.waitstatus_to_exitcode(status)
    counts.seconds += usage.ru_utime + usage.ru_stime
    return process.returncode


def meson_test(counts, build, logbase, suites, env=None, out=None):
    """Runs suites of one build folder; a build that produced no log counts as one failure."""
    log = ROOT / build / "meson-logs" / f"{logbase}.json"
    log.unlink(missing_ok=True)
    jobs = ["--num-processes", os.environ["JOBS"]] if os.environ.get("JOBS") else []
    run(counts, ["meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", "--logbase", logbase, *jobs, *suites], env,
        out)
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not records:
        print(f"{build}: meson ran no test of {' '.join(suites)}", file=out)
        counts.failed += 1
    for record in records:
        counts.add_record(record)


def fast(counts, args):
    step("unit, checkops, golden, fuzz replay, cuda on the CPU, lint, load, api")
    meson_test(counts, args.build, "test-fast", ["--no-suite", "deep", "--no-suite", "cuda-static", "--no-suite", "cuda-ptx"])


def lint(counts, args):
    meson_test(counts, args.build, "test-lint", ["--suite", "lint"])


def small_model(counts, build, out):
    """A model for tests/api of the slow builds, with the vocabulary of the default one. None when it cannot be made."""
    path = ROOT / build / "small.gguf"
    command = [ROOT / "build/venv/bin/python", "tests/tools/small_model.py", "models/SmolLM2-135M-Instruct.Q4_1.gguf", path]
    return path if run(counts, command, None, out) == 0 else None


def build_aside(log, commands, env=None):
    """Runs commands (nice; what they say goes to build/LOG). Whether all went well, and Counts with their time."""
    counts = Counts()
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / log).open("w") as out:
        return all(run(counts, ["nice", "-n", "5", *c], env, out) == 0 for c in commands), counts


def did_not_build(counts, build, out=None):
    log = (ROOT / "build" / f"{build}.log").read_text(errors="replace").splitlines()
    print("\n".join(log[-40:] + [f"{build}: did not build"]), file=out)
    counts.failed += 1


def sanitized(counts, out, name, built):
    """Unit and api tests (and the replay of fuzz corpora) in a clang build with sanitizers. built: its future."""
    what = SANITIZERS[name]
    build = f"build-{name}"
    step(f"{what['title']}: unit, fuzz replay, api" + "".join(f", without {x}" for x in what["leave_out"]), out)
    went_well, building = built.result()
    counts.add(building)
    if not went_well:
        did_not_build(counts, build, out)
        return
    model = small_model(counts, build, out)
    if model is None:
        print(f"{build}: no small model", file=out)
        counts.failed += 1
        return
    # Limits on time in the tests are multiplied: instrumented code is several times slower.
    env = {**what["env"], "QTTT_TIME_FACTOR": "8", "QTTT_MODEL": str(model)}
    # --no-suite wins: long real-model suites (golden, checkops) run in the fast build only.
    meson_test(counts, build, f"test-{name}",
               ["--timeout-multiplier", "4", "--suite", "unit", "--suite", "api", "--suite", "fuzz",
                *(f"--no-suite={x}" for x in ("deep", "slow", *what["leave_out"]))], env, out)


def slow_suites(counts, out, build):
    step("the second model and other slow suites", out)
    meson_test(counts, build, "test-deep", ["--suite", "deep"], None, out)


def fuzz(counts, out, seconds):
    step(f"fuzz targets, {seconds} s each", out)
    own_counts(counts, out, ["sh", "tools/fuzz.sh", str(seconds), ""], {"FUZZ_SEED": "1"})  # a run that fails can be run again


def own_counts(counts, out, command, env=None):
    """Runs, prints and counts a program that ends with `N passed, N failed`."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        status = run(counts, command, env, said)
        said.seek(0)
        text = said.read()
    print(text, file=out)
    passed, failed, skipped = count_in(text)
    counts.passed += passed
    counts.failed += failed if status == 0 else max(failed, 1)
    counts.skipped += skipped


def load_program(counts, out, build, name, seconds, *flags):
    """A program of tests/bench/load, over a small model and a server of its own; it judges no times."""
    own_counts(counts, out, ["timeout", str(seconds + 600), ROOT / "build/venv/bin/python", f"tests/bench/load/{name}", "--binary",
                             f"{build}/server/qttt", "--small-from", "models/SmolLM2-135M-Instruct.Q4_1.gguf", *flags])


def guidellm(counts, out, build):
    step("GuideLLM for a minute", out)
    load_program(counts, out, build, "guidellm_run.py", 60)


def soak(counts, out, build):
    seconds = int(os.environ.get("SOAK_SECONDS") or 120)
    step(f"a soak of {seconds} s", out)
    load_program(counts, out, build, "soak.py", seconds, "--seconds", seconds)


def lane(*steps):
    """Steps (function, arguments) one after the other. Returns their counts, and what they printed."""
    counts, start = Counts(), time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        for work, *args in steps:
            work(counts, out, *args)
            print(f"({time.monotonic() - start:.0f} s, {counts.seconds:.0f} s of processors)", file=out, flush=True)
        out.seek(0)
        return counts, out.read()


def deep(counts, args):
    """The API tests wait more than they compute, so the lanes go on side by side; only builds wait for each other."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as builds, \
            concurrent.futures.ThreadPoolExecutor() as lanes:
        built = {name: builds.submit(build_aside, f"build-{name}.log", [["sh", "tools/sanitizer_build.sh", name]]) for name in SANITIZERS}
        running = [lanes.submit(lane, (sanitized, name, built[name])) for name in SANITIZERS]
        running.append(lanes.submit(lane, (slow_suites, args.build), (guidellm, args.build), (soak, args.build),
                                    (fuzz, 10)))
        for future in concurrent.futures.as_completed(running):
            one, text = future.result()
            print(text, flush=True)
            counts.add(one)


# Of vectors read through a crooked pointer only GCC tells; of races both, clang three times as fast.
CUDA_BUILDS = {
    "asan": ("gcc", "g++", "address,undefined"),
    "tsan": ("clang", "clang++", "thread"),
    "plain": ("gcc", "g++", "none"),
    "msan": ("clang", "clang++", "memory"),
}


def ninja(build, *targets):
    return ["ninja", "-C", build, *([f"-j{os.environ['JOBS']}"] if os.environ.get("JOBS") else []), *targets]


def build_cuda(name):
    """build-cuda-NAME, the suite's programs alone."""
    cc, cxx, sanitize = CUDA_BUILDS[name]
    build = f"build-cuda-{name}"
    commands = [ninja(build, "cuda-tests", "cuptx-programs")]
    if not (ROOT / build / "build.ninja").exists():
        commands.insert(0, ["meson", "setup", build, "-Dcuemu=enabled", "-Dcuemu_mutants=true", f"-Db_sanitize={sanitize}",
                            "-Db_lundef=false", "-Doptimization=1", "-Ddebug=true"])
    return build_aside(f"{build}.log", commands, {"CC": cc, "CXX": cxx})


def cuda_step(counts, title, log, built, *tests):
    """The tests of a build, when it is made. built: its future; tests: what meson_test() takes."""
    step(title)
    start, (went_well, building), before = time.monotonic(), built.result(), counts.seconds
    counts.add(building)
    if went_well:
        meson_test(counts, *tests)
    else:
        did_not_build(counts, log)
    print(f"({time.monotonic() - start:.0f} s, {counts.seconds - before:.0f} s of processors)", flush=True)


def cuda(counts, args):
    """What nvcc makes of the CUDA kernels (tests/custatic), and the same interpreted (tests/cuptx), in the build of `make`, which has
    compiled the module. The kernels on the CPU (tests/cuemu) in builds of their own, with mistakes that have to be caught.
    While the tests of a build run the next one is made."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as builds:
        nvcc = builds.submit(build_aside, "build-nvcc.log", [ninja(args.build, "custatic-tests", "cuptx-tests")])
        built = {name: builds.submit(build_cuda, name) for name in CUDA_BUILDS}
        cuda_step(counts, "what nvcc made, judged and its PTX interpreted: tests, every op, the server", "build-nvcc", nvcc,
                  args.build, "test-cuda-ptx", ["--suite", "cuda-static", "--suite", "cuda-ptx"])
        for name, future in built.items():
            cuda_step(counts, f"cuda on the CPU, {name}: tests, planted mistakes, mutants", f"build-cuda-{name}", future,
                      f"build-cuda-{name}", "test-cuda", ["--suite", "cuda"], SANITIZERS.get(name, {}).get("env"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["fast", "deep", "cuda", "lint"])
    parser.add_argument("--build", default="build")
    args = parser.parse_args()
    counts, start = Counts(), time.monotonic()
    {"fast": fast, "deep": deep, "cuda": cuda, "lint": lint}[args.what](counts, args)
    step(f"summary ({time.monotonic() - start:.0f} s, {counts.seconds:.0f} s of processors)")
    for reason in counts.reasons:
        print(f"skipped - {reason}")
    if counts.skipped:
        print(f"{counts.skipped} skipped, for the reasons above")
    print(f"{counts.passed} passed, {counts.failed} failed")
    sys.exit(1 if counts.failed or not counts.passed else 0)


if __name__ == "__main__":
    main()
