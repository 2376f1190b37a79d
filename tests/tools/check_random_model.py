#!/usr/bin/env python3
"""check_random_model.py QTTT - random_model.py's files of every type, small ones: that they have the tensors and types that
they should, that the program reads them and answers, that a file is the same when it is made again, and that sizes that no
type can hold are refused."""
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


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind in WANTED:
            check(sys.argv[1], kind, folder)
        assert make("Q4_K_M", folder / "x", "--hidden", "192").returncode != 0, "192 is no multiple of 256"
        assert make("Q8_0", folder / "x", "--vocab", "99").returncode != 0, "99 pieces hold no bytes"
        assert make("Q9_9", folder / "x").returncode != 0
    print("7 passed, 0 failed")


if __name__ == "__main__":
    main()
