"""Two real servers behind nginx, HAProxy and Envoy, which run as docker/ has them: streams, clients that leave, silence, sessions,
uploads, old clients, the openai client. What goes where in every case: test_proxy_rules.py."""
import json
import time

import openai
import pytest

import harness
import proxies
from harness import chat, encode, parse_events, words

CHAT = "/v1/chat/completions"
SESSIONS = "/v1/sessions"
FACTOR = harness.TIME_FACTOR
MIB_32 = 32 << 20
HEARTBEAT, IDLE = 0.5 * min(FACTOR, 3), 2 * min(FACTOR, 3)
STORY = {"max_tokens": 400, "ignore_eos": True, "temperature": 0}
TRAIN = {"mode": "on", "steps": 2, "span_tokens": 32, "guard": False}


@pytest.fixture(scope="module")
def nodes(small_model):
    """Answers name the node: that is what its model is called."""
    settings = {"stream": {"heartbeat_seconds": HEARTBEAT}, "sched": {"max_running": 2}}
    with (harness.Server("--model-name", "node-1", "--threads", "1", settings=settings, model=small_model) as a,
          harness.Server("--model-name", "node-2", "--threads", "1", settings=settings, model=small_model) as b):
        yield [a, b]


def addresses(nodes):
    return [f"127.0.0.1:{n.port}" for n in nodes]


@pytest.fixture(scope="module", params=proxies.KINDS)
def running(request, nodes):
    if why := proxies.missing(request.param):
        pytest.skip(why)
    with proxies.Proxy(request.param, addresses(nodes), idle=harness.LONG) as p:
        yield p


@pytest.fixture
def proxy(running, nodes):
    yield running
    assert running.process.poll() is None, running.log_text()
    for n in nodes:
        n.wait_idle()


def keyed(key, **more):
    return {"x-session-id": key, **more}


def node_of_key(proxy, nodes, key):
    name = proxy.request("GET", "/readyz", headers=keyed(key)).json()["model"]
    return nodes[["node-1", "node-2"].index(name)]


# ---- streams ----

def test_streams_are_not_held_back(proxy):
    """The first piece comes long before the last, and the rest bit by bit."""
    with proxy.connect() as c:
        c.send(encode("POST", CHAT, chat("Tell me all.", stream=True, **STORY)))
        status, headers = c.head()
        assert status == 200 and headers["content-type"] == "text/event-stream"
        start, raw, at = time.monotonic(), b"", []
        for piece in c.chunks():
            raw += piece
            if b'"content":"' in piece:
                at.append(time.monotonic() - start)
    events = parse_events(raw)
    assert events[-1] == "[DONE]"
    assert at[0] < at[-1] / 2 and at[len(at) // 2] < 0.9 * at[-1], (at[0], at[-1], len(at))
    assert len(at) > 50, "in large lumps"


def fill(node):
    """Two answers that will not end by themselves: whoever comes now waits."""
    open_ones = []
    for seed in (1, 2):  # sched.max_running
        c = node.connect()
        c.send(encode("POST", CHAT, chat("Count.", max_tokens=8000, ignore_eos=True, stream=True, seed=seed)))
        assert c.head()[0] == 200
        open_ones.append(c)
    node.wait_load(lambda r, w: r == 2, harness.LONG)
    return open_ones


def test_heartbeats_carry_a_stream_over_the_idle_bound(proxy, nodes):
    """A request that waits longer than the proxy bears silence: as a stream it lives, in one piece it does not."""
    node = node_of_key(proxy, nodes, "idle")
    busy = fill(node)
    try:
        with (proxies.Proxy(proxy.kind, addresses(nodes), idle=IDLE) as impatient,
              impatient.connect() as stream, impatient.connect() as whole):
            start = time.monotonic()
            stream.send(encode("POST", CHAT, chat("Hi", max_tokens=3, ignore_eos=True, stream=True), keyed("idle")))
            whole.send(encode("POST", CHAT, chat("Hi", max_tokens=3), keyed("idle")))
            assert stream.head()[0] == 200
            pieces, beats = stream.chunks(), 0
            while time.monotonic() - start < 1.5 * IDLE:
                piece = next(pieces)
                assert not piece.replace(b": keep-alive\n\n", b""), piece
                beats += piece.count(b"\n\n")
            assert beats >= 3
            r = whole.response()
            assert r.status == 504 and r.json()["error"]["type"] == "server_error", "the bound is not in force"
            for c in busy:
                c.close()
            assert b"[DONE]" in b"".join(pieces)
    finally:
        for c in busy:
            c.close()


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_stops_the_engine(proxy, nodes, streamed, record_property):
    """Within a fifth of a second when nothing else runs; ten times that is allowed here."""
    took = []
    for i in range(3):
        node = node_of_key(proxy, nodes, f"leaves-{i}")
        with proxy.connect() as c:
            c.send(encode("POST", CHAT, chat("Count.", max_tokens=8000, ignore_eos=True, stream=streamed, seed=i),
                          keyed(f"leaves-{i}")))
            if streamed:
                assert c.head()[0] == 200
            node.wait_load(lambda r, w: r == 1, harness.LONG)
        took.append(node.wait_idle(2 * FACTOR))
    record_property("seconds", max(took))
    print(f"\n{proxy.kind}: stopped after {', '.join(f'{1000 * t:.0f}' for t in took)} ms")


# ---- sessions ----

def create(proxy, headers=None, **fields):
    r = proxy.request("POST", SESSIONS, {**chat(words(120)), **fields}, headers, checked=True)
    assert r.status == 201, r.body
    return r.json()


def test_a_session_stays_at_its_node(proxy, nodes):
    """Made without a key, then asked for in every form; its jobs and forks too."""
    homes, i = set(), 0
    while len(homes) < 2:
        i += 1
        assert i < 40, "all at one node: once in 2^38"
        made = create(proxy, metadata={"n": str(i)})
        key, home = made["id"].removeprefix("ses_"), made["model"]
        homes.add(home)
        there = nodes[["node-1", "node-2"].index(home)]
        assert there.get(f"{SESSIONS}/{made['id']}").status == 200
        assert proxy.request("GET", f"{SESSIONS}/{made['id']}", checked=True).json()["metadata"] == {"n": str(i)}
        r = proxy.request("POST", CHAT, chat("And?", max_tokens=2, append=True), keyed(key), checked=True).json()
        assert r["model"] == home and r["session"]["id"] == made["id"]
        r = proxy.request("POST", CHAT, chat("And?", max_tokens=2, append=True), keyed(made["id"])).json()
        assert r["model"] == home and r["session"]["id"] == made["id"]
        r = proxy.request("POST", f"{SESSIONS}/{made['id']}/qttt/jobs", TRAIN, checked=True)
        assert r.status == 202, r.body
        job = r.json()
        for path in (f"/v1/qttt/jobs/{job['id']}", f"/v1/qttt/jobs/{job['id']}/events?after=0"):
            assert proxy.request("GET", path, checked=True).status == 200
        assert proxy.request("POST", f"/v1/qttt/jobs/{job['id']}/cancel", checked=True).status == 200
        fork = proxy.request("POST", f"{SESSIONS}/{made['id']}/fork", {}, checked=True).json()
        again = proxy.request("POST", f"{SESSIONS}/{fork['id']}/fork", {}, checked=True).json()
        for f in (fork, again):
            assert proxy.request("GET", f"{SESSIONS}/{f['id']}", checked=True).json()["model"] == home
            key = f["id"].removeprefix("ses_")
            r = proxy.request("POST", CHAT, chat("So?", max_tokens=2, append=True), keyed(key)).json()
            assert r["session"]["id"] == f["id"]
        for f in (made, fork, again):
            assert proxy.request("DELETE", f"{SESSIONS}/{f['id']}", checked=True).status == 200


def test_an_implicit_session_is_found_by_its_path(proxy):
    for i in range(6):
        r = proxy.request("POST", CHAT, chat(words(60), max_tokens=2), {"X-OpenWebUI-Chat-Id": f"chat-{i}"}, checked=True)
        home = r.json()["model"]
        got = proxy.request("GET", f"{SESSIONS}/ses_chat-{i}", checked=True).json()
        assert (got["model"], got["id"]) == (home, f"ses_chat-{i}")
        assert proxy.request("DELETE", f"{SESSIONS}/ses_chat-{i}").status == 200


def test_the_job_of_a_request_without_a_session_is_found(proxy):
    body = chat(words(300, seed=5), max_tokens=2, qttt={**TRAIN, "context": {"tokens": 200}})
    for seed in range(4):
        body["qttt"]["seed"] = seed
        r = proxy.request("POST", CHAT, body, checked=True)
        job = r.json()["qttt"]["job_id"]
        if job is None:  # its twin at this node has trained the same already
            continue
        assert proxy.request("GET", f"/v1/qttt/jobs/{job}", checked=True).status == 200


def test_requests_without_a_session_use_both_nodes(proxy):
    for headers in ({}, {"x-session-id": ""}):
        seen = [proxy.request("POST", CHAT, chat("Hi", max_tokens=1), headers).json()["model"] for _ in range(24)]
        assert set(seen) == {"node-1", "node-2"}, seen


# ---- bodies and versions of HTTP ----

def test_chunked_uploads(proxy):
    body = json.dumps(chat(words(50), max_tokens=2)).encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:7], body[7:100], body[100:]))
    with proxy.connect() as c:
        for _ in range(2):  # over one connection
            c.send(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                   b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
            assert c.response("POST", CHAT).status == 200


def test_expect_100_continue(proxy):
    body = json.dumps(chat("Hi", max_tokens=2)).encode()
    with proxy.connect() as c:
        c.send(encode("POST", CHAT, None, {"Content-Type": "application/json", "Content-Length": str(len(body)),
                                           "Expect": "100-continue"}))
        assert c.head()[0] == 100
        c.send(body)
        assert c.response("POST", CHAT).status == 200


def padded(n_bytes):
    body = json.dumps(chat("Hi", max_tokens=1)).encode()
    return body + b" " * (n_bytes - len(body))


def test_bodies_up_to_the_limit(proxy):
    assert proxy.request("POST", CHAT, padded(MIB_32), checked=True).status == 200
    head = encode("POST", CHAT, None, {"Content-Type": "application/json", "Content-Length": str(MIB_32 + 1)})
    # Refused from the head alone; and heard also by who sends all before he listens, whom Envoy cuts off.
    for body in (b"", padded(MIB_32 + 1))[:1 if proxy.kind == "envoy" else 2]:
        with proxy.connect() as c:
            c.send(head + body)
            r = c.response("POST", CHAT)
        assert r.status == 413 and set(r.json()["error"]) == {"message", "type", "param", "code"}


def test_http_1_0_clients(proxy):
    body = json.dumps(chat("Hi", max_tokens=4, ignore_eos=True)).encode()
    head = "POST {} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    raw = proxies.raw(proxy.port, head.format(CHAT, len(body)).encode() + body)
    assert raw.split(b" ", 2)[1] == b"200" and json.loads(raw.partition(b"\r\n\r\n")[2])["choices"]
    body = json.dumps(chat("Hi", max_tokens=4, ignore_eos=True, stream=True)).encode()
    raw = proxies.raw(proxy.port, head.format(CHAT, len(body)).encode() + body)
    top, _, events = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in top.lower(), "nobody asked for chunks"
    assert parse_events(events)[-1] == "[DONE]"


def test_head_and_options(proxy):
    with proxy.connect() as c:
        r = c.request("HEAD", "/v1/models")
        assert r.status == 200
        r = c.request("OPTIONS", CHAT, None, {"Origin": "http://x", "Access-Control-Request-Method": "POST",
                                              "Access-Control-Request-Headers": "authorization, x-session-id"})
        assert r.status == 204 and "x-session-id" in r.headers["access-control-allow-headers"].lower()
        assert c.request("GET", "/v1/models").status == 200, "the same connection"


def test_what_the_node_says_of_a_request_comes_back(proxy):
    r = proxy.request("POST", CHAT, chat("Hi", max_tokens=1), {"x-request-id": "mine-1", **keyed("echo")}, checked=True)
    assert (r.headers["x-request-id"], r.headers["x-session-id"]) == ("mine-1", "echo")
    r = proxy.request("POST", CHAT, b"{", checked=True)
    assert r.status == 400 and r.json()["error"]["type"] == "invalid_request_error"
    assert proxy.request("GET", f"{SESSIONS}/ses_nobody", checked=True).status == 404
    assert proxy.request("POST", CHAT, b"x", {"Content-Type": "text/plain"}, checked=True).status == 415
    assert proxy.request("PUT", CHAT, b"{}", checked=True).status == 405


# ---- the openai client ----

@pytest.fixture
def client(proxy):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="any", max_retries=0,
                       timeout=harness.LONG) as c:
        yield c


def test_openai_client(client, proxy, nodes):
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=messages)
    home = node_of_key(proxy, nodes, "o")
    model = home.get("/v1/models").json()["data"][0]["id"]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=messages, temperature=-1, extra_headers=keyed("o"))
    plain = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0,
                                           extra_body={"ignore_eos": True}, extra_headers=keyed("o"))
    with client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, stream=True,
                                        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
                                        extra_headers=keyed("o")) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 8
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3 * FACTOR).chat.completions.create(
            model=model, messages=messages, max_tokens=8000, extra_body={"ignore_eos": True}, extra_headers=keyed("o"))
    home.wait_idle(2 * FACTOR)
    with client.chat.completions.create(model=model, messages=messages, max_tokens=8000, stream=True,
                                        extra_body={"ignore_eos": True}, extra_headers=keyed("o")) as stream:
        for i, _ in enumerate(stream):
            if i == 5:
                break
    home.wait_idle(2 * FACTOR)
    assert client.models.list(extra_headers=keyed("o")).data[0].id == model
