"""Input that nobody sends by mistake: the server answers or closes, and goes on living."""
import contextlib
import json
import random
import socket
import time

import pytest

import harness
from harness import Connection, chat, encode, text_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MIB = 1 << 20


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


def malformed_bodies(n, seed):
    """Mutations of good bodies. What is still valid JSON keeps its max_tokens, so that an answer to it is short."""
    rng = random.Random(seed)
    seeds = [
        (CHAT, chat("Hello", max_tokens=1, temperature=0.5, stop=["a"], logit_bias={"5": 1}, stream_options={})),
        (CHAT, chat("Hello", max_tokens=1, qttt={"mode": "off", "steps": 1, "budget": {"max_seconds": 1}})),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 1, "echo": True, "logprobs": 2}),
        ("/tokenize", {"prompt": "Hello", "add_special_tokens": True}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
    ]
    junk = [b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000", b"\\ud83d", b"1e999", b"-", b"[[", b"]]", b"{", b"}", b'"', b",",
            b"null", b"NaN", b"99999999999999999999", b"-1", b"0.1e-400", b"true", b"\xf4\x90\x80\x80", b"/**/", b"\r\n"]
    while n:
        path, value = rng.choice(seeds)
        body = bytearray(json.dumps(value).encode())
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(body) + 1)
            kind = rng.randrange(5)
            if kind == 0 and body:
                body[at % len(body)] = rng.randrange(256)
            elif kind == 1:
                body[at:at] = rng.choice(junk)
            elif kind == 2:
                del body[at:at + rng.randint(1, 9)]
            elif kind == 3:
                del body[at:]
            else:
                body[at:at] = body[max(0, at - 12):at] * rng.randint(1, 40)
        body = bytes(body)
        if path in (CHAT, COMPLETIONS):
            try:
                parsed = json.loads(body)
            except (ValueError, RecursionError):
                parsed = None
            if isinstance(parsed, dict) and parsed.get("max_tokens") != 1:
                continue
        n -= 1
        yield path, body


def test_a_thousand_malformed_bodies(server):
    statuses = {}
    with server.connect() as c:
        for path, body in malformed_bodies(1000, seed=20261122):
            c.send(encode("POST", path, body))
            r = c.response("POST", path)  # checked against openapi.yaml
            assert r.status in (200, 400, 404), (r.status, body, r.body)
            statuses[r.status] = statuses.get(r.status, 0) + 1
            if r.headers.get("connection", "").lower() == "close":
                c.close()
                c.__init__(server.port)
    assert statuses[400] > 700, statuses


def test_32_mib_and_one_byte_more(server):
    body = json.dumps(chat("Hi", max_tokens=1)).encode()
    exact = body + b" " * (32 * MIB - len(body))
    r = server.post(CHAT, exact)
    assert r.status == 200, r.body
    # What is refused is read to its end, so that a client that writes first and reads then gets the answer.
    for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
        assert server.post(path, exact + b" ").status == 413
    with server.connect() as c:  # without a Content-Length, noticed when the limit is passed
        c.send(encode("POST", CHAT, None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        for _ in range(33):
            c.send(b"%x\r\n" % MIB + b" " * MIB + b"\r\n")
        c.send(b"0\r\n\r\n")
        assert c.response("POST", CHAT).status == 413
    with server.connect() as c:  # but not for ever
        try:
            c.send(encode("POST", CHAT, None, {"Content-Type": "application/json", "Content-Length": str(10 ** 15)}))
            for _ in range(400):
                c.send(b" " * MIB)
        except OSError:
            return
    raise AssertionError("the server read 400 MiB of a body that it had refused")


def test_huge_values_stay_bounded(server):
    """Megabytes of tiny values, which cost a parser far more than their bytes."""
    before = resident_bytes(server)
    for body in (b'{"prompt":[' + b"0," * (16 * MIB - 20) + b"0]}", b'{"prompt":[' + b"[]," * (10 * MIB) + b"[]]}",
                 b'{"prompt":' + b"[" * MIB, b'{"a":"' + b"x" * (31 * MIB) + b'"}'):
        r = server.post(COMPLETIONS, body)
        assert r.status in (400, 413), (r.status, r.body[:200])
    assert server.get("/livez").status == 200
    grown = resident_bytes(server) - before
    assert grown < 400 * MIB, f"{grown / MIB:.0f} MiB more than before"


def test_the_loop_stays_alive_during_big_parses(server):
    body = b'{"prompt":[' + b"0," * (15 * MIB) + b"0]}"
    with server.connect() as c:
        c.send(encode("POST", COMPLETIONS, body))
        slowest = 0
        for _ in range(50):
            start = time.monotonic()
            assert server.get("/livez").status == 200
            slowest = max(slowest, time.monotonic() - start)
        assert c.response("POST", COMPLETIONS).status in (400, 413)
    assert slowest < 0.5 * harness.TIME_FACTOR, f"/livez took {slowest:.2f} s"


REQUESTS = [
    b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET /livez\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n", b"FROB /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET " + b"/" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200000 + b"\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-%d: y\r\n" * 5000 + b"\r\n",
    b"GET /%zz%00%ff/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffffff\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nbad header line\r\n\r\n", b"GET /livez HTTP/1.1\nHost: x\n\n",
]


@pytest.fixture(scope="module")
def impatient():
    """A server that closes silent connections after a second, so that waiting for it does not take long."""
    with harness.Server(settings={"server": {"idle_seconds": 1}}) as s:
        yield s


@pytest.mark.parametrize("i", range(len(REQUESTS)))
def test_malformed_http(impatient, i):
    """An answer, or a closed connection; never a connection that stays open for nothing."""
    with Connection(impatient.port, timeout=10 * harness.TIME_FACTOR) as c:
        try:
            c.send(REQUESTS[i])
            with contextlib.suppress(OSError):  # closed already
                c.sock.shutdown(socket.SHUT_WR)
            answer = c.rest()
        except TimeoutError:
            raise
        except OSError:
            answer = b""
        if answer:
            assert answer.startswith(b"HTTP/1."), answer[:100]
            assert int(answer.split(b" ")[1]) in (200, 400, 404, 405, 408, 411, 413, 414, 415, 417, 431, 500, 501, 505), answer[:80]
    assert impatient.get("/livez").status == 200


@pytest.mark.parametrize("lines", [
    b"Content-Length: 3\r\nContent-Length: 40", b"Content-Length: 3\r\nContent-Length: 3", b"Content-Length: 3, 40",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: xchunked", b"Content-Length : 3", b"Transfer-Encoding : chunked"])
def test_where_a_body_ends_is_never_guessed(server, lines):
    """What a proxy may read as one request is not read as two: one refusal, then the connection is closed."""
    hidden = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for top in (b"POST /tokenize", b"GET /livez", b"OPTIONS /tokenize"):
        with server.connect(10 * harness.TIME_FACTOR) as c:
            c.send(top + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + lines + b"\r\n\r\n" + hidden)
            answer = c.rest()
        assert b" 400 " in answer[:20] or (top.startswith(b"OPTIONS") and b" 204 " in answer[:20]), answer[:80]
        assert b'"status"' not in answer, "the hidden request was answered"


def test_a_silent_connection_is_closed(impatient):
    with Connection(impatient.port, timeout=10 * harness.TIME_FACTOR) as c:
        c.send(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Le")
        c.rest()


def test_keep_alive(server):
    with server.connect() as c:
        for _ in range(3):
            assert c.request("GET", "/livez").status == 200
            assert c.request("POST", CHAT, chat("Hi", max_tokens=1)).status == 200
            assert c.request("POST", CHAT, b"{").status == 400
            assert c.request("POST", CHAT, chat("Hi", max_tokens=2, stream=True)).status == 200
            assert c.request("GET", "/nowhere").status == 404


def test_pipelining(server):
    """Several requests in one packet: answers in their order, each complete."""
    with server.connect() as c:
        c.send(encode("GET", "/livez") + encode("POST", "/tokenize", {"prompt": "a b c", "add_special_tokens": False})
               + encode("POST", CHAT, chat("Hi", max_tokens=2, stream=True))
               + encode("POST", CHAT, chat("Hi", max_tokens=1)) + encode("GET", "/v1/models"))
        assert c.response("GET", "/livez").status == 200
        assert c.response("POST", "/tokenize").json()["count"] == 3
        assert c.response("POST", CHAT).events()[-1] == "[DONE]"
        assert c.response("POST", CHAT).json()["usage"]["completion_tokens"] == 1
        assert c.response("GET", "/v1/models").status == 200


def test_expect_100_continue(server):
    body = json.dumps(chat("Hi", max_tokens=1)).encode()
    with server.connect() as c:
        c.send(encode("POST", CHAT, None, {"Content-Type": "application/json", "Content-Length": str(len(body)),
                                           "Expect": "100-continue"}))
        assert c.head()[0] == 100
        c.send(body)
        assert c.response("POST", CHAT).status == 200


def test_chunked_upload(server):
    body = json.dumps({"prompt": "Hello, world!", "add_special_tokens": False}).encode()
    with server.connect() as c:
        c.send(encode("POST", "/tokenize", None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        for i in range(0, len(body), 7):
            c.send(b"%x\r\n" % len(body[i:i + 7]) + body[i:i + 7] + b"\r\n")
        c.send(b"0\r\n\r\n")
        r = c.response("POST", "/tokenize")
    whole = server.post("/tokenize", {"prompt": "Hello, world!", "add_special_tokens": False})
    assert r.json() == whole.json()


def test_a_slow_writer_holds_nobody_up(server):
    raw = encode("POST", "/tokenize", {"prompt": "slow", "add_special_tokens": False})
    with server.connect() as c:
        for i in range(0, len(raw), 16):
            c.send(raw[i:i + 16])
            assert server.get("/livez").status == 200
        assert c.response("POST", "/tokenize").status == 200


def test_a_slow_reader_gets_everything(server):
    """The client stops reading while the answer is made; the engine is not held up, and nothing is lost."""
    body = chat("Tell me a long story about a lighthouse.", max_tokens=250, ignore_eos=True, temperature=0, stream=True,
                logprobs=True, top_logprobs=20)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(harness.LONG)
        s.connect(("127.0.0.1", server.port))
        s.sendall(encode("POST", CHAT, body))
        server.wait_load(lambda r, w: r == 1, harness.LONG)
        server.wait_idle()  # the engine has finished although nobody has read
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # from here on the window need not be small
        c = Connection.__new__(Connection)
        c.sock, c.buffer = s, b""
        assert c.head()[0] == 200
        events = list(c.events())
    assert events[-1] == "[DONE]"
    whole = server.post(CHAT, {**body, "stream": False}).json()["choices"][0]
    assert text_of(events) == whole["message"]["content"]
    got = [t["token"] for e in events if isinstance(e, dict) for ch in e["choices"] if ch.get("logprobs")
           for t in ch["logprobs"]["content"]]
    assert got == [t["token"] for t in whole["logprobs"]["content"]]


def test_many_connections(server):
    """Two hundred idle connections and one that works."""
    idle = [server.connect() for _ in range(200)]
    try:
        assert server.post(CHAT, chat("Hi", max_tokens=1)).status == 200
    finally:
        for c in idle:
            c.close()
    assert server.get("/livez").status == 200
