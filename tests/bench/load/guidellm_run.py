#!/usr/bin/env python3
"""guidellm_run.py - GuideLLM as PyPI has it against `qttt serve`: closed loop over completions, then Poisson arrivals over
chat; its reports are read and judged. Nothing is downloaded: the tokenizer is a folder written from the model's file.

guidellm_run.py --binary build/server/qttt --model FILE --guidellm build/venv-load/bin/guidellm [--seconds 25]
Needs build/venv (tests/tools/hf_tokenizer.py) and the environment that tests/bench/load/requirements.txt describes. With
--small-from instead of --model it makes a small model first. Prints `N passed, N failed`."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from load_server import Server, metrics
from soak import Checks, small_model

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
PROMPT, OUTPUT = 200, 24  # tokens
RUNS = [("text_completions", ["--rate-type", "concurrent", "--rate", "4"]),
        ("chat_completions", ["--rate-type", "poisson", "--rate", "3"])]


def run(args, port, home, route, how):
    """GuideLLM's report of one run, as it wrote it; None, and its output printed, when it fails."""
    report = home / f"{route}.json"
    env = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
           "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "GUIDELLM__MAX_WORKER_PROCESSES": "1",
           "GUIDELLM__PREFERRED_ROUTE": route, "GUIDELLM__SCHEDULER_START_DELAY": "1", "NO_COLOR": "1"}
    command = [args.guidellm, "benchmark", "run", "--target", f"http://127.0.0.1:{port}",
               "--processor", str(home / "tokenizer"), "--max-seconds", str(args.seconds), "--random-seed", "1",
               "--data", json.dumps({"prompt_tokens": PROMPT, "output_tokens": OUTPUT, "samples": 200}),
               "--disable-progress", "--output-path", str(report), *how]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=args.seconds + 300)
    if done.returncode or not report.exists():
        print(done.stdout[-3000:] + done.stderr[-3000:])
        return None
    if args.keep:
        (pathlib.Path(args.keep) / report.name).write_bytes(report.read_bytes())
    return json.loads(report.read_text())


def judge(checks, route, report):
    checks.check(report is not None, f"{route}: GuideLLM ran to its end")
    if report is None:
        return
    for benchmark in report["benchmarks"]:
        made, figures = benchmark["run_stats"]["requests_made"], benchmark["metrics"]

        def of(name, value="mean"):
            return figures[name]["successful"][value]
        print(f"{route}: {made}; {of('requests_per_second'):.2f} requests/s, "
              f"TTFT {of('time_to_first_token_ms', 'median'):.0f} ms, ITL {of('inter_token_latency_ms', 'median'):.1f} ms")
        checks.check(made["errored"] == 0, f"{route}: {made['errored']} errors")
        checks.check(made["successful"] > 5, f"{route}: {made['successful']} requests succeeded")
        checks.check(0 < of("time_to_first_token_ms", "median") < 1e3 * of("request_latency", "median"),
                     f"{route}: the first token ({of('time_to_first_token_ms', 'median'):.0f} ms) comes before the end "
                     f"({1e3 * of('request_latency', 'median'):.0f} ms)")
        lengths = of("output_token_count", "min"), of("output_token_count", "max")
        checks.check(lengths == (OUTPUT, OUTPUT), f"{route}: answers have {lengths} tokens, {OUTPUT} were asked for")
        template = 40 if route == "chat_completions" else 8  # what the template adds; what joining pieces of text changes
        checks.check(PROMPT - 8 <= of("prompt_token_count") <= PROMPT + template,
                     f"{route}: {of('prompt_token_count'):.0f} prompt tokens of {PROMPT} asked for")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--binary", required=True)
    p.add_argument("--model")
    p.add_argument("--small-from")
    p.add_argument("--guidellm", default="build/venv-load/bin/guidellm")
    p.add_argument("--seconds", type=float, default=20, help="of each of the two runs")
    p.add_argument("--keep", help="folder for GuideLLM's reports")
    args = p.parse_args()
    args.guidellm = str(pathlib.Path(args.guidellm).absolute())
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="qttt-guidellm-") as name:
        home = pathlib.Path(name)
        model = args.model or small_model(args.small_from, home)
        subprocess.run([sys.executable, str(TOOLS / "hf_tokenizer.py"), str(model), str(home / "tokenizer")], check=True)
        server = Server(args.binary, model, "--log-level", "warn")
        try:
            for route, how in RUNS:
                judge(checks, route, run(args, server.port, home, route, how))
            m = metrics(server.host, server.port)
            checks.check(m["vllm:num_requests_running"] + m["vllm:num_requests_waiting"] == 0, "nothing is left running")
            checks.check(m['qttt_http_requests_total{status="200"}'] > 10, "the server answered with 200")
            status = server.stop()
            checks.check(status == 0, f"the server exits with 0 ({status})")
        finally:
            server.kill()
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
