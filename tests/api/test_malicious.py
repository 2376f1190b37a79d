"""A malicious client's day: whatever it does, memory stays bounded, it gets the right status or a closed connection, and others
are served meanwhile."""
import contextlib
import json
import os
import random
import resource
import select
import socket
import threading
import time

import pytest

import harness
import spec
from harness import Connection, Server, chat, encode, words

CHAT = "/v1/chat/completions"
MIB = 1 << 20
FAST = harness.TIME_FACTOR == 1  # not under a sanitizer


def resident(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


def counter(server, reason):
    return server.metrics()["qttt_connections_closed_total", (("reason", reason),)]


def others_are_served(server):
    """By a client of their own, within the time that a human would wait."""
    start = time.monotonic()
    assert server.post(CHAT, chat("Hi", max_tokens=1)).status == 200
    assert server.get("/livez").status == 200
    assert time.monotonic() - start < 10 * harness.TIME_FACTOR


def closed_within(sock, seconds):
    """What the server still said before it closed."""
    sock.settimeout(seconds)
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            said += data
    return said


@pytest.fixture(scope="module")
def strict():
    """A server whose limits are near."""
    settings = {"server": {"head_seconds": 1, "body_seconds": 1, "idle_seconds": 1, "max_body": "1MiB", "max_connections": 64},
                "stream": {"heartbeat_seconds": 0.5}}
    with Server(settings=settings) as s:
        yield s
        s.wait_idle()


# ---- time: slow heads, slow bodies, slow readers ----

def test_slowloris(strict):
    """Heads that grow by a byte now and then never become requests, and do not hold their connections."""
    before, socks = counter(strict, "late"), []
    for _ in range(40):
        socks.append(socket.create_connection(("127.0.0.1", strict.port)))
        socks[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    end, open_socks = time.monotonic() + 30 * harness.TIME_FACTOR, list(socks)
    while open_socks and time.monotonic() < end:
        for s in list(open_socks):
            try:
                s.sendall(b"X")
                if select.select([s], [], [], 0)[0] and not s.recv(4096):
                    raise ConnectionError
            except ConnectionError:
                open_socks.remove(s)
        others_are_served(strict)
        time.sleep(0.1)
    assert not open_socks, f"{len(open_socks)} of 40 are still open"
    assert counter(strict, "late") >= before + 40
    for s in socks:
        s.close()


@pytest.mark.parametrize("path", [p for p, m in spec.DOCUMENT["paths"].items()
                                  if "408" in m.get("post", {}).get("responses", {})])
def test_a_body_that_dribbles_gets_408(strict, path):
    path = path.replace("{id}", "ses_nobody")
    with Connection(strict.port) as c:
        c.send(encode("POST", path, None, {"Content-Type": "application/json", "Content-Length": "1000"}))
        start = time.monotonic()
        while not select.select([c.sock], [], [], 0.2)[0]:
            c.send(b" ")
            assert time.monotonic() - start < 30 * harness.TIME_FACTOR
        r = c.response("POST", path)
        assert r.status == 408 and r.json()["error"]["code"] == "timeout"
        assert "x-should-retry" not in r.headers
        assert closed_within(c.sock, 10 * harness.TIME_FACTOR) == b""


def test_a_body_in_progress_is_not_late(strict):
    """More time comes with more bytes: 400 KiB at 200 KiB/s take two seconds, and body_seconds is one."""
    body = json.dumps({"prompt": " " * (400 << 10), "add_special_tokens": False}).encode()
    with Connection(strict.port) as c:
        c.send(encode("POST", "/tokenize", None, {"Content-Type": "application/json", "Content-Length": str(len(body))}))
        for i in range(0, len(body), 10 << 10):
            c.send(body[i:i + (10 << 10)])
            time.sleep(0.05)
        assert c.response("POST", "/tokenize").status == 200


def test_a_reader_of_single_bytes_gets_everything(server):
    body = chat("Count.", max_tokens=24, ignore_eos=True, temperature=0, stream=True)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        s.settimeout(harness.LONG)
        s.connect(("127.0.0.1", server.port))
        s.sendall(encode("POST", CHAT, body, {"Connection": "close"}))
        raw = b""
        while data := s.recv(1):
            raw += data
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"data: [DONE]\n\n" in rest and rest.endswith(b"0\r\n\r\n")


# ---- number: connections, pipelines ----

def test_more_connections_than_there_is_room_for(strict):
    """Silent ones make way; each new client is served at once."""
    before, socks = counter(strict, "shed"), []
    try:
        for i in range(300):
            socks.append(socket.create_connection(("127.0.0.1", strict.port), timeout=10 * harness.TIME_FACTOR))
            if i % 50 == 49:
                others_are_served(strict)
        assert counter(strict, "shed") > before
    finally:
        for s in socks:
            s.close()
    others_are_served(strict)


def test_ten_thousand_connections():
    n = 10_000 if FAST else 2_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < n + 500:
        pytest.skip(f"the limit of open files is {hard}, {n + 500} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 500), hard))
    socks = []
    try:
        with Server(settings={"server": {"max_connections": n + 100, "head_seconds": 600}}) as server:
            before = resident(server)
            for i in range(n):
                socks.append(socket.create_connection(("127.0.0.1", server.port), timeout=harness.LONG))
                if i % 3 == 1:
                    socks[-1].sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nX: ")
                if i % 2_000 == 1_999:
                    others_are_served(server)
            others_are_served(server)
            grown = resident(server) - before
            assert grown < n * 48 * 1024 * (1 if FAST else 4), f"{grown / n:.0f} bytes for a connection"
            for s in socks:
                s.close()
            others_are_served(server)
    finally:
        for s in socks:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pipeline_of_a_thousand(server):
    """Answered one by one, in their order, while others get their turn."""
    n, got = 1_000, []
    with server.connect() as c:
        writer = threading.Thread(target=lambda: [c.send(encode("POST", "/tokenize", {"prompt": "a " * (i % 5), "add_special_tokens": False}))
                                                  for i in range(n)])
        writer.start()
        for i in range(n):
            got.append(c.response().json()["count"])
            if i % 250 == 0:
                others_are_served(server)
        writer.join()
    assert got == got[:5] * (n // 5) and len(set(got[:5])) == 5


def test_a_pipeline_of_streams_that_nobody_reads(server):
    """The first one's answer is all that is made: what follows waits in the socket."""
    before = resident(server)
    with server.connect() as c:
        c.sock.settimeout(0.5)
        request = encode("POST", CHAT, chat("Hi", max_tokens=2, stream=True))
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += c.sock.send(request * 100)
        others_are_served(server)
        assert resident(server) - before < 32 * MIB * harness.TIME_FACTOR
    server.wait_idle()


# ---- size: heads, bodies, JSON ----

def test_a_head_without_end(strict):
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10 * harness.TIME_FACTOR) as s:
        before, sent = resident(strict), 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
            while sent < 64 * MIB:
                s.sendall(b"X-%d: " % sent + b"y" * 4000 + b"\r\n")
                sent += 4000
        assert sent < 8 * MIB, "the server goes on reading a head"
        assert resident(strict) - before < 4 * MIB * harness.TIME_FACTOR
    others_are_served(strict)


def test_a_chunked_body_without_end(strict):
    """413 as soon as it is too large, then a few times the limit is read so that the client sees it, then no more."""
    with Connection(strict.port) as c:
        before, sent, answer = resident(strict), 0, b""
        c.send(encode("POST", "/tokenize", None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        with contextlib.suppress(ConnectionError):
            while sent < 256 * MIB:
                c.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
                if not answer and select.select([c.sock], [], [], 0)[0]:
                    answer = c.sock.recv(4096)
        assert sent < 64 * MIB, "the server reads for ever"
        assert answer.startswith(b"HTTP/1.1 413 "), answer[:80]
        assert resident(strict) - before < 8 * MIB * harness.TIME_FACTOR
    others_are_served(strict)


BOMBS = {
    "nested arrays": b"[" * 500_000,
    "nested objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "a wide array": b'{"messages":[' + b"0," * 5_000_000 + b"0]}",
    "empty objects": b'{"messages":[' + b"{}," * 3_000_000 + b"{}]}",
    "equal keys": b"{" + b'"model":1,' * 1_000_000 + b'"model":1}',
    "keys that differ": b"{" + b",".join(b'"k%d":1' % i for i in range(800_000)) + b"}",
    "a long number": b'{"max_tokens":' + b"9" * 8_000_000 + b"}",
    "a long exponent": b'{"temperature":1e' + b"9" * 1_000_000 + b"}",
    "escapes": b'{"messages":[{"role":"user","content":"' + b"\\u0041" * 2_000_000 + b'"}]}',
    "half surrogates": b'{"messages":[{"role":"user","content":"' + b"\\ud800" * 1_000_000 + b'"}]}',
    "a stop list": json.dumps(chat("Hi", max_tokens=1, stop=["x" * 1000] * 5000)).encode(),
    "a logit bias": json.dumps(chat("Hi", max_tokens=1, logit_bias={str(i): 1 for i in range(300_000)})).encode(),
    "messages": json.dumps({"messages": [{"role": "user", "content": ""}] * 300_000, "max_tokens": 1}).encode(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_bombs(server, name):
    before = resident(server)
    r = server.post(CHAT, BOMBS[name])
    assert r.status in (400, 413), (r.status, r.body[:200])
    assert len(r.body) < 4096, "the error repeats the bomb"
    spec.check("POST", CHAT, r)
    assert resident(server) - before < 160 * MIB * (1 if FAST else 4)
    others_are_served(server)


# ---- bytes: cuts, rubbish, injection ----

def corpus():
    stream = chat("Hello there", max_tokens=2, stream=True)
    return [
        encode("GET", "/livez"), encode("GET", "/v1/models?a=b&c=%20d"), encode("OPTIONS", CHAT, None, {"Origin": "http://x.y"}),
        encode("POST", "/tokenize", {"prompt": "Grüße", "add_special_tokens": False}, {"X-Session-Id": "cut", "Expect": "100-continue"}),
        encode("POST", CHAT, stream, {"Authorization": "Bearer x", "X-Request-Id": "cut"}),
        encode("POST", "/detokenize", None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        + b'd;ext=1\r\n{"tokens":[1]\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n',
    ]


@pytest.mark.parametrize("i", range(len(corpus())))
def test_requests_cut_at_every_byte(server, i):
    """The client closes, resets, or half-closes at each place; nothing is left behind."""
    raw = corpus()[i]
    for cut in range(0, len(raw) + 1, 1 if FAST else 7):
        with socket.create_connection(("127.0.0.1", server.port), timeout=harness.LONG) as s:
            s.sendall(raw[:cut])
            how = cut % 3
            if how == 0:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            elif how == 1:
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_WR)
                said = closed_within(s, harness.LONG)
                assert said == b"" or said.startswith(b"HTTP/1.1 "), said[:80]
    server.wait_idle()
    # the last one's text may still be with a worker
    harness.until(lambda: int(server.metrics()["qttt_open_requests", ()]), lambda n: n <= 1)


def test_rubbish_in_text(server):
    """Bytes that are not UTF-8 are refused with their place, in bodies; code points of every kind pass."""
    rng = random.Random(5)
    bad = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80\x80"]
    for seq in bad:
        for where in (b'{"prompt":"%s"}', b'{"%s":1,"prompt":"a"}', b'%s{"prompt":"a"}', b'{"prompt":"a"}%s'):
            r = server.post("/tokenize", where.replace(b"%s", seq))
            assert r.status == 400 and r.json()["error"]["type"] == "invalid_request_error", (where, seq, r.body)
    for _ in range(200):
        text = "".join(chr(c) for c in (rng.randrange(1, 0x110000) for _ in range(20)) if not 0xD800 <= c < 0xE000)
        r = server.post("/tokenize", {"prompt": text, "add_special_tokens": False})
        assert r.status == 200 and r.json()["count"] > 0


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Session-Id", "traceparent", "Origin", "Idempotency-Key", "Authorization",
                                  "X-OpenWebUI-Chat-Id", "Content-Type", "Accept", "Cookie"])
def test_headers_cannot_be_injected(server, name):
    """What a header holds comes back, if at all, as one harmless value, and writes no line of its own into the log."""
    for value in (b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\r\n X-Evil: 1", b"a\x00X-Evil: 1", b"a\x1b[31mX-Evil: 1", b"\xff\xfe", b"%0d%0aX-Evil: 1",
                  b"a" * 9000, b""):
        with Connection(server.port) as c:
            c.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 14\r\n"
                   + (b"" if name == "Content-Type" else b"Content-Type: application/json\r\n")
                   + name.encode() + b": " + value + b'\r\n\r\n{"prompt":"a"}')
            answer = closed_within(c.sock, harness.LONG)
        head = answer.partition(b"\r\n\r\n")[0]
        assert b"\nX-Evil" not in head and b"\rX-Evil" not in head, head
        assert all(32 <= b < 127 or b in b"\r\n" for b in head), head
    log = server.log_path.read_bytes()
    assert b"\nX-Evil" not in log and b"\x1b" not in log and b"\x00" not in log


def test_urls(server):
    for path in ("/v1/sessions/..%2f..%2fetc%2fpasswd", "/v1/sessions/%00", "/v1/sessions/" + "a" * 9000, "/v1/qttt/jobs/%ff%fe",
                 "//v1//models", "/v1/models/../sessions", "/v1/sessions?limit=99999999999999999999", "/v1/sessions?after=%0d%0aX-Evil:1",
                 "/v1/models/%2e%2e", "/v1/sessions/ses_a%20b", "/%", "/v1/sessions?limit=-1&limit=1"):
        with Connection(server.port) as c:
            c.send(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = closed_within(c.sock, harness.LONG)
        assert int(answer.split(b" ")[1]) in (400, 404, 414, 431), (path, answer[:80])


def test_absurd_documents(server):
    """Long runs of one character, and a prompt over the context: refused in bounded time."""
    for text in ("a" * MIB, "é" * (MIB // 2), "🙂" * (MIB // 4), words(200) * 40):
        start = time.monotonic()
        r = server.post(CHAT, chat(text, max_tokens=1))
        assert r.status == 400 and r.json()["error"]["code"] == "context_length_exceeded", r.body[:200]
        assert time.monotonic() - start < 20 * harness.TIME_FACTOR
    others_are_served(server)


def test_files_are_not_leaked(server):
    """After all of that the process has no more open files than a working server needs."""
    server.wait_idle()
    harness.until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")), lambda n: n <= 64, 30 * harness.TIME_FACTOR)
