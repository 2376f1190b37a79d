#!/usr/bin/env python3
"""The real server on the CPU and on the kernels that nvcc made, one after the other: greedy answers have the same tokens, a qTTT
job the same losses, gradient norms and delta within what rounding makes of them.

    serve.py --server QTTT --module MODULE --libraries DIR MODEL

MODEL: a small one. Standard library only; ends with `N passed, M failed`.
"""
import argparse
import http.client
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

PATIENCE = 240  # seconds for anything that is waited for
TOKENS = 12
# The reference multiplies FP32, the device BF16: each operand is off by 2^-9 of itself at most. Logits of this model are about 2
# and were seen to move by 0.05; the mean over a span and norms move less. The first is absolute, the others are relative.
# AdamW's first steps follow the signs of the gradient, and rounding turns those of the smallest elements: 0.09 of a layer's delta.
LOGPROB, LOSS, GRADIENT, DELTA, TURN = 0.1, 0.004, 0.015, 0.004, 0.15


class Failed(Exception):
    pass


class Server:
    """`qttt serve` until the end of the block."""

    def __init__(self, args, *flags, env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-ptx-")
        at = pathlib.Path(self.folder.name)
        self.log, port = at / "log", at / "port"
        command = [args.server, "serve", "--model", args.model, "--host", "127.0.0.1", "--port", "0", "--port-file", port,
                   "--state-dir", at / "state", "--threads", "1", "--max-context", "512", *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT,
                                            env={**os.environ, **(env or {})})
        self.port = None
        try:
            self.wait(lambda: port.exists() and port.read_text().strip())
            self.port = int(port.read_text())
            self.wait(lambda: self.call("GET", "/readyz", fine=(200, 503))[0] == 200)
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.status = self.process.wait()

    def wait(self, what):
        deadline = time.monotonic() + PATIENCE
        while not what():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the server (status {self.process.poll()}):\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def call(self, method, path, body=None, fine=(200, 201, 202)):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json"} if body is not None else {})
            r = connection.getresponse()
            text = r.read()
        except OSError as e:
            raise Failed(f"{method} {path}: {e}:\n{self.log.read_text(errors='replace')[-3000:]}") from e
        finally:
            connection.close()
        if r.status not in fine:
            raise Failed(f"{method} {path}: {r.status} {text[:500]!r}")
        return r.status, json.loads(text) if text.startswith(b"{") else None


def answer(server, prompt, **fields):
    """Tokens and their log-probabilities of a greedy answer; what it says of its training."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 1, "ignore_eos": True, **fields}
    got = server.call("POST", "/v1/completions", body)[1]
    return got["choices"][0]["logprobs"]["tokens"], got["choices"][0]["logprobs"]["token_logprobs"], got.get("qttt")


def deltas(server):
    """The matrices of the one adapter that the server has on disk, by layer (core/adapter_file.h in core/state_file.h)."""
    path, = (pathlib.Path(server.folder.name) / "state").rglob("*.qa")
    data = path.read_bytes()
    n_blocks, = struct.unpack_from("<I", data, 24)
    table, = struct.unpack_from("<Q", data, 32)
    sizes = [struct.unpack_from("<Q", data, table + 16 * i)[0] for i in range(n_blocks)]
    at, found = 64 + sizes[0], []
    for size in sizes[1:]:
        words = struct.unpack_from(f"<{size // 2}H", data, at)
        found.append(struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *(w << 16 for w in words))))
        at += size
    return found


def job(server, prompt):
    """A session over the prompt, trained by a job: its steps, its result, its adapter."""
    session = server.call("POST", "/v1/sessions", {"messages": [{"role": "user", "content": prompt}]})[1]["id"]
    at = f"/v1/sessions/{session}"
    server.wait(lambda: server.call("GET", at)[1]["status"] == "ready")
    made = server.call("POST", at + "/qttt/jobs", {"mode": "on", "steps": 3, "span_tokens": 48, "learning_rate": 1e-3,
                                                   "guard": False, "seed": 7})[1]
    where = "/v1/qttt/jobs/" + made["id"]
    server.wait(lambda: server.call("GET", where)[1]["status"] in ("succeeded", "failed", "cancelled"))
    done = server.call("GET", where)[1]
    if done["status"] != "succeeded":
        raise Failed(f"the job: {done}")
    steps = [e["data"] for e in server.call("GET", where + "/events?limit=1000")[1]["data"] if e["type"] == "step"]
    return steps, done["result"], deltas(server)


def observe(server, text):
    rng = random.Random(11)
    prompts = [[rng.randrange(1, 256) for _ in range(n)] for n in (1, 40, 150)]
    return {
        "answers": [answer(server, p) for p in prompts],
        "job": job(server, text),
        "trained": answer(server, prompts[2] * 2, qttt={"mode": "on", "steps": 2, "span_tokens": 32, "learning_rate": 1e-3,
                                                        "guard": False, "seed": 5, "context": {"tokens": 200}}),
    }


class Verdicts:
    passed = failed = 0

    def check(self, what, fine):
        self.passed += bool(fine)
        self.failed += not fine
        if not fine:
            print(f"FAILED {what}")

    def near(self, what, got, want, relative, least=0.0):
        fine = all(isinstance(x, (int, float)) and math.isfinite(x) for x in (got, want))
        print(f"{what}: {got} on the device, {want} on the CPU")
        self.check(what, fine and abs(got - want) <= max(relative * abs(want), least))

    def answers(self, what, got, want):
        self.check(f"{what}: {got[0]}, not {want[0]}", got[0] == want[0] and len(got[0]) == TOKENS)
        worst = max(abs(a - b) for a, b in zip(got[1], want[1]))
        print(f"{what}: {TOKENS} tokens, log-probabilities within {worst:.2g}")
        self.check(f"{what}: log-probabilities", worst <= LOGPROB)


def compare(v, device, cpu):
    for i, (got, want) in enumerate(zip(device["answers"], cpu["answers"])):
        v.answers(f"answer {i}", got, want)
    v.answers("answer after training", device["trained"], cpu["trained"])
    v.near("delta of the request", device["trained"][2]["delta_norm_relative"], cpu["trained"][2]["delta_norm_relative"], DELTA)
    (steps, result, delta), (cpu_steps, cpu_result, cpu_delta) = device["job"], cpu["job"]
    v.check("steps of the job", len(steps) == len(cpu_steps) == 3)
    for got, want in zip(steps, cpu_steps):
        v.check("span of the step", got["span_start"] == want["span_start"])
        v.near(f"loss of step {got['step']}", got["loss"], want["loss"], LOSS)
        v.near(f"gradient of step {got['step']}", got["grad_norm"], want["grad_norm"], GRADIENT)
    v.near("delta of the job", result["delta_norm_relative"], cpu_result["delta_norm_relative"], DELTA)
    v.check("layers of the delta", len(delta) == len(cpu_delta) > 0)
    for i, (got, want) in enumerate(zip(delta, cpu_delta)):
        off = math.sqrt(sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want))
        print(f"delta of layer {i}: off by {off:.3g} of its norm")
        v.check(f"delta of layer {i}", len(got) == len(want) and off <= TURN)
    v.check("something was learnt", steps[0]["grad_norm"] > 0 and result["delta_norm_relative"] > 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--module", required=True)
    parser.add_argument("--libraries", required=True)
    parser.add_argument("model")
    args = parser.parse_args()
    rng = random.Random(3)
    text = " ".join("".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(2, 7))) for _ in range(60))
    v = Verdicts()
    try:
        with Server(args, "--device", "cpu", "--isa", "ref") as server:
            cpu = observe(server, text)
        start = time.monotonic()
        with Server(args, "--device", "cuda", "--cuda-module", args.module, env={"LD_LIBRARY_PATH": args.libraries}) as server:
            info = server.process.pid and pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()
            v.check("the stand-in is what the module is linked to", str(pathlib.Path(args.libraries).resolve()) in info)
            device = observe(server, text)
        print(f"{time.monotonic() - start:.0f} s on the device")
        v.check(f"the server ended with {server.status}", server.status == 0)
        compare(v, device, cpu)
    except Failed as e:
        v.check(str(e), False)
    print(f"{v.passed} passed, {v.failed} failed")
    return v.failed != 0


if __name__ == "__main__":
    sys.exit(main())
