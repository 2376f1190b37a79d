#!/usr/bin/env python3
"""check_random_model.py QTTT - random_model.py's files of every type, small ones: that they have the tensors and types that
they should, that the program reads them and answers, that a file is the same when it is made again, and that sizes that no
type can hold are refused. With one of them what `qttt bench` writes as JSON, which tools and documents are made from."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

TOOL = pathlib.Path(__file__).with_name("random_model.py")
SIZES = ["--layers", "8", "--hidden", "256", "--ffn", "512", "--heads", "4", "--kv-heads", "2", "--vocab", "1000", "--context", "512"]
# 8 layers of 7 matrices, embedding, head; 17 norms. Q6_K of Q4_K_M: the head, and two of each of layers 0, 3, 6 and 7.
WANTED = {"Q8_0": {"Q8_0": 58}, "Q4_0": {"Q4_0": 57, "Q6_K": 1}, "Q4_K_M": {"Q4_K": 49, "Q6_K": 9}, "BF16": {"BF16": 58}}


def make(kind, path, *sizes):
    return subprocess.run([sys.executable, TOOL, kind, path, *sizes], capture_output=True, text=True)


def check(qttt, kind, folder):
    path = folder / f"{kind}.gguf"
    made = make(kind, path, *SIZES)
    assert made.returncode == 0, made.stderr
    first = path.read_bytes()
    make(kind, path, *SIZES)
    assert path.read_bytes() == first, "made again, the file is another"
    told = subprocess.run([qttt, "inspect", path], capture_output=True, text=True, check=True).stdout
    found = {name: int(n) for name, n in re.findall(r"^  (\w+) +[\d.]+ [KM]iB +(\d+) tensors?$", told, re.M)}
    assert found == {**WANTED[kind], "F32": 17}, found
    prompt = folder / "prompt"
    prompt.write_text("It was a bright cold day in April, and the clocks were striking 13.")
    run = subprocess.run([qttt, "run", "--model", path, "--prompt-file", prompt, "--max-tokens", "16", "--threads", "1"],
                         capture_output=True, text=True)
    assert run.returncode == 0 and re.search(r"\b\d+ prompt tokens \(0 cached\), \d+ tokens in", run.stdout + run.stderr), run


def bench(qttt, folder, *flags):
    out = folder / "bench.json"
    subprocess.run([qttt, "bench", "--model", folder / "Q4_K_M.gguf", "--repeat", "1", "--threads", "1", "--json", out, *flags],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = json.loads(out.read_text())
    assert run["model"] == "Random-Q4_K_M" and run["threads"] == 1 and run["processors"] >= 1, run
    assert all(isinstance(run[name], str) and run[name] for name in ("version", "cpu", "isa")), run
    assert run["limits"]["flops_per_second"] > 1e6 and run["limits"]["bytes_per_second"] > 1e6, run
    return run


def check_bench(qttt, folder):
    run = bench(qttt, folder, "--part", "model", "--loss-text", TOOL)
    found = {f["name"]: f for f in run["figures"]}
    assert found["decode at depth 0"]["limited_by"] == "bytes" and found["decode at depth 0"]["value"] > 0, found
    assert found["loss with K/V in BF16"]["unit"] == "nats" and "loss with K/V in Q8" in found, found
    assert run["profile"] == run["growth"] == []
    run = bench(qttt, folder, "--profile", "--depth", "200")
    names = [s["name"] for s in run["profile"]]
    assert names == ["prefill of 200 tokens", "qTTT step k=128 at 200", "qTTT step k=128 at 200, LoRA r8",
                     "decode at depth 200, a token", "decode at depth 0, a token"], names
    for s in run["profile"]:
        parts = sum(o["seconds"] for o in s["operations"]) + s["host_seconds"]
        assert abs(parts - s["seconds"]) < 1e-4 * s["seconds"] and s["limit_seconds"] > 0, s
        calls = {o["detail"]: o["calls"] for o in s["operations"] if o["op"] == "matmul"}
        if s["name"].startswith("decode"):  # the values of every second layer are in Q6_K
            assert calls["Q4_K 256>256+128+128, 1 rows"] == calls["Q4_K,Q6_K 256>256+128+128, 1 rows"] == 4, calls


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind in WANTED:
            check(sys.argv[1], kind, folder)
        check_bench(sys.argv[1], folder)
        assert make("Q4_K_M", folder / "x", "--hidden", "192").returncode != 0, "192 is no multiple of 256"
        assert make("Q8_0", folder / "x", "--vocab", "99").returncode != 0, "99 pieces hold no bytes"
        assert make("Q9_9", folder / "x").returncode != 0
    print("8 passed, 0 failed")


if __name__ == "__main__":
    main()
