"""Bodies of 32 MiB: what they take of memory and of the loop's time, and what is said of one that is broken; and a server
that has nothing to do."""
import json
import pathlib
import random
import subprocess
import sys
import threading
import time

import pytest

import harness
from harness import Server, chat, encode

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MIB = 1 << 20
# A context that lets 32 MiB through to the tokenizer; the prompt is then too long by a few million tokens.
CONTEXT = 2_000_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "wide.gguf"
    subprocess.run([sys.executable, harness.ROOT / "tests/tools/small_model.py", harness.MODEL, path, str(CONTEXT)], check=True)
    with Server("--kv-size", "64MiB", model=path) as s:
        yield s


def english(n):
    """The words of our documentation in random order: n bytes, but for a few, of JSON."""
    rng = random.Random(32)
    words = [w for f in sorted((harness.ROOT / "docs").glob("*.md")) for w in f.read_text("utf-8").split()]
    block = "".join(rng.choice(words) + rng.choice([" "] * 12 + [", ", ". ", ".\n", "\n\n", ' "']) for _ in range(100_000))
    return block * (n // len(json.dumps(block)))


def memory(server, key):
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key + ":"))


def cpu_seconds(server):
    """Of all threads; the kernel counts nanoseconds there."""
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(t.read_text().split()[0]) for t in tasks) / 1e9


def forget_peak(server):
    pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("path, most", [(CHAT, 4.25), (COMPLETIONS, 3.25)])
def test_a_body_of_32_mib_is_not_copied_about(wide, path, most):
    """The text once as JSON's, once rendered (a chat), and its ids, which here are 1.5 times the text: one more copy of
    the body would be seen. Meanwhile probes are answered, and the threads that helped are gone afterwards."""
    text = english(31 * MIB)
    body = json.dumps(chat(text, max_tokens=1) if path == CHAT else {"prompt": text, "max_tokens": 1}).encode()
    assert 29 * MIB < len(body) < 32 * MIB
    assert wide.get("/livez").status == 200
    idle, threads, waits, over = memory(wide, "VmRSS"), memory(wide, "Threads"), [], threading.Event()
    forget_peak(wide)

    def probe():
        with wide.connect() as c:
            while not over.is_set():
                start = time.monotonic()
                assert c.request("GET", "/livez").status == 200
                waits.append(time.monotonic() - start)
                time.sleep(0.005)

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        with wide.connect() as c:
            c.send(encode("POST", path, body)[:-1])
            time.sleep(0.3)
            start = time.monotonic()
            c.send(body[-1:])
            answer = c.response("POST", path)
            seconds = time.monotonic() - start
    finally:
        over.set()
        prober.join()
    assert answer.status == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert len(waits) > 10 and sorted(waits)[len(waits) * 9 // 10] < 0.1 * harness.TIME_FACTOR
    assert memory(wide, "Threads") == threads
    peak = (memory(wide, "VmHWM") - idle) * 1024 / len(body)
    print(f"{path}: {seconds:.2f} s from the last byte to the last id, peak of {peak:.2f} times the body")  # pytest -s
    if harness.TIME_FACTOR == 1:  # sanitizers keep shadows, and what was freed
        assert peak < most


def test_a_long_body_that_is_broken_is_told_where(wide):
    text = english(4 * MIB)
    body = json.dumps({"prompt": text, "max_tokens": 1}).encode()
    at = body.index(b" ", len(body) - 30_000)  # in no escape
    for bad, what in ((b"\x01", "control character"), (b"\xff", "unable to decode byte 0xff"), (b"\\x", "invalid escape")):
        answer = wide.post(COMPLETIONS, body[:at] + bad + body[at:])
        message = answer.json()["error"]["message"]
        assert answer.status == 400 and message.startswith("invalid JSON at line 1, column"), message
        assert what in message, message


def test_an_idle_server_takes_no_time(wide):
    assert wide.post(COMPLETIONS, {"prompt": "One two three", "max_tokens": 4}).status == 200
    wide.wait_idle()
    time.sleep(0.5)
    start = cpu_seconds(wide)
    time.sleep(3)
    # 0.1 % of a core, which are a few wake-ups of timers a second
    assert cpu_seconds(wide) - start < 0.003 * harness.TIME_FACTOR
