"""Sessions: create, list, get, update, delete, fork, extend, reset, and what is wrong with a request for one."""
import json
import signal
import time

import pytest

import harness
import spec
from harness import Server, encode, words

PATH = "/v1/sessions"
CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "The harbour's code word is marzipan. " + words(60, seed=9)}


def call(server, method, path, body=None, **kw):
    """A request whose answer is checked against openapi.yaml."""
    r = server.request(method, path, body, **kw)
    spec.check(method, path, r)
    return r


def create(server, messages=None, headers=None, **fields):
    body = {"messages": messages or [SYSTEM], **fields}
    if "prompt" in fields:
        del body["messages"]
    r = call(server, "POST", PATH, body, headers=headers)
    assert r.status == 201, r.body
    return r.json()


def get(server, session, **kw):
    return call(server, "GET", f"{PATH}/{session['id']}", **kw).json()


def wait_ready(server, session):
    return harness.until(lambda: get(server, session), lambda s: s["status"] not in ("queued", "prefilling", "restoring"),
                         every=0.01)


def delete(server, session, **kw):
    return call(server, "DELETE", f"{PATH}/{session['id']}", **kw)


def ids_of(server, text):
    return server.post("/tokenize", {"prompt": text}).json()["tokens"]


# ---- create, get, update, delete ----

def test_life_of_a_session(server):
    before = int(time.time())
    r = call(server, "POST", PATH, {"messages": [SYSTEM], "metadata": {"a": "b"}, "ttl_seconds": 50})
    s = r.json()
    assert r.status == 201 and r.headers["location"] == f"{PATH}/{s['id']}"
    assert s["id"] == "ses_" + r.headers["x-session-id"]
    assert s["status"] in ("queued", "prefilling", "ready") and s["created_at"] >= before
    assert (s["transcript_tokens"], s["generation"], s["generations"], s["implicit"]) == (0, 0, [], False)
    tokens = server.post("/tokenize", {"messages": [SYSTEM], "add_generation_prompt": False}).json()["count"]
    assert s["context_tokens"] == tokens
    done = wait_ready(server, s)
    assert done["status"] == "ready" and done["prefilled_tokens"] == tokens and done["error"] is None
    assert done["kv_bytes"] > 0 and done["resident"] == "device"
    assert done["metadata"] == {"a": "b"} and done["ttl_seconds"] == 50
    assert 45 <= done["expires_at"] - int(time.time()) <= 51
    r = call(server, "POST", f"{PATH}/{s['id']}", {"metadata": {"c": "d"}, "ttl_seconds": 0})
    assert r.status == 200 and r.json()["metadata"] == {"c": "d"} and r.json()["expires_at"] is None
    assert call(server, "POST", f"{PATH}/{s['id']}", {}).json()["metadata"] == {"c": "d"}
    gone = delete(server, s)
    assert gone.status == 200 and gone.json() == {"id": s["id"], "object": "session.deleted", "deleted": True}
    assert call(server, "GET", f"{PATH}/{s['id']}").status == 404
    assert delete(server, s).status == 404


def test_the_key_is_the_client_s_when_it_can_be(server):
    s = create(server, headers={"x-session-id": "my-chat_1"})
    assert s["id"] == "ses_my-chat_1"
    r = call(server, "POST", PATH, {"messages": [SYSTEM]}, headers={"x-session-id": "my-chat_1"})
    assert r.status == 409 and r.json()["error"]["code"] == "session_exists"
    delete(server, s)
    s = create(server, headers={"X-OpenWebUI-Chat-Id": "0b3e-77"})
    assert s["id"] == "ses_0b3e-77"
    delete(server, s)
    for odd in ("a b", "x" * 65, "ü/../"):
        made = [create(server, headers={"x-session-id": odd.encode().decode("latin-1")}) for _ in range(1)]
        assert len(made[0]["id"]) == 4 + 32  # a hash: the same for the same value
        r = call(server, "POST", PATH, {"messages": [SYSTEM]}, headers={"x-session-id": odd.encode().decode("latin-1")})
        assert r.status == 409
        delete(server, made[0])
    one, two = create(server), create(server, headers={"x-session-id": ""})
    assert one["id"] != two["id"]
    delete(server, one)
    delete(server, two)


def test_raw_prompts(server):
    ids = ids_of(server, "The quick brown fox")
    a = create(server, prompt="The quick brown fox")
    b = create(server, prompt=ids)
    assert a["context_tokens"] == b["context_tokens"] == len(ids)
    for s in (a, b):
        r = call(server, "POST", f"{PATH}/{s['id']}/extend", {"messages": [{"role": "user", "content": "x"}]})
        assert r.status == 400 and r.json()["error"]["code"] == "no_messages"
        delete(server, s)


def test_lists_page_by_page(server):
    made = [create(server, metadata={"i": str(i)})["id"] for i in range(5)]
    ours = [s["id"] for s in call(server, "GET", f"{PATH}?limit=100").json()["data"]]
    assert ours[:5] == made[::-1]  # the newest first
    page = call(server, "GET", f"{PATH}?limit=2").json()
    assert [s["id"] for s in page["data"]] == made[:-3:-1] and page["has_more"]
    assert (page["first_id"], page["last_id"]) == (made[4], made[3])
    page = call(server, "GET", f"{PATH}?limit=2&after={page['last_id']}").json()
    assert [s["id"] for s in page["data"]] == [made[2], made[1]]
    page = call(server, "GET", f"{PATH}?order=asc&after={made[3]}").json()
    assert [s["id"] for s in page["data"]] == [made[4]] and not page["has_more"]
    assert call(server, "GET", f"{PATH}?after=ses_none").status == 400
    assert call(server, "GET", f"{PATH}?limit=0").status == 400
    for i in made:
        delete(server, {"id": i})


# ---- fork, extend, reset ----

def test_forks_share_context_and_nothing_else(server):
    parent = create(server, metadata={"a": "b"}, ttl_seconds=77)
    wait_ready(server, parent)
    r = call(server, "POST", f"{PATH}/{parent['id']}/fork", {"adapter": "base", "transcript": False})
    assert r.status == 201
    f = r.json()
    assert f["id"] != parent["id"] and f["context_tokens"] == parent["context_tokens"]
    assert f["ttl_seconds"] == 77 and f["status"] == "ready"
    assert f["kv_bytes"] == get(server, parent)["kv_bytes"]  # the same pages
    bare = call(server, "POST", f"{PATH}/{parent['id']}/fork")  # without a body, as curl -X POST sends it
    assert bare.status == 201
    named = call(server, "POST", f"{PATH}/{parent['id']}/fork", {}, headers={"x-session-id": "child"})
    assert named.json()["id"] == "ses_child"
    again = call(server, "POST", f"{PATH}/{parent['id']}/fork", {}, headers={"x-session-id": "child"})
    assert again.status == 409
    routed = call(server, "POST", f"{PATH}/{parent['id']}/fork", {}, headers={"x-session-id": parent["id"][4:]})
    assert routed.status == 201 and routed.json()["id"] != parent["id"]
    for s in (f, bare.json(), routed.json()):  # proxies hash what stands before the mark: to the parent's server
        assert s["id"].startswith(parent["id"] + "--")
    delete(server, parent)
    assert get(server, f)["status"] == "ready"
    for s in (f, bare.json(), named.json(), routed.json()):
        delete(server, s)


def test_extend_and_reset(server):
    s = create(server)
    more = [{"role": "user", "content": "What is the code word?"}, {"role": "assistant", "content": "Marzipan."}]
    r = call(server, "POST", f"{PATH}/{s['id']}/extend", {"messages": more})
    assert r.status == 200 and r.json()["transcript_tokens"] == 0
    want = server.post("/tokenize", {"messages": [SYSTEM, *more], "add_generation_prompt": False}).json()["count"]
    assert r.json()["context_tokens"] == want
    assert wait_ready(server, s)["prefilled_tokens"] == want
    r = call(server, "DELETE", f"{PATH}/{s['id']}/adapter")
    assert r.status == 200 and r.json()["generation"] == 0
    delete(server, s)


def test_idempotency_keys(server):
    """A retried creation, fork or extension is the first one's answer, and makes nothing."""
    h = {"Idempotency-Key": "create-1"}
    s = create(server, headers=h)
    assert create(server, headers=h)["id"] == s["id"]
    r = call(server, "POST", PATH, {"prompt": "another"}, headers=h)
    assert r.status == 400 and r.json()["error"]["code"] == "idempotency_key_used"
    fork, h = f"{PATH}/{s['id']}/fork", {"Idempotency-Key": "fork-1"}
    f = call(server, "POST", fork, {}, headers=h).json()
    assert call(server, "POST", fork, {}, headers=h).json()["id"] == f["id"]
    more, h = {"messages": [{"role": "user", "content": "Once."}]}, {"Idempotency-Key": "extend-1"}
    a = call(server, "POST", f"{PATH}/{s['id']}/extend", more, headers=h).json()
    b = call(server, "POST", f"{PATH}/{s['id']}/extend", more, headers=h).json()
    assert a["context_tokens"] == b["context_tokens"] == get(server, s)["context_tokens"] > s["context_tokens"]
    delete(server, s)
    delete(server, f)


# ---- limits ----

def test_time_to_live():
    with Server(settings={"sessions": {"ttl_seconds": 1}}) as server:
        short = create(server, messages=[{"role": "user", "content": "a"}])
        kept = create(server, messages=[{"role": "user", "content": "a"}], ttl_seconds=100)
        server.until(PATH, lambda r: len(r["data"]) != 2, 10 * harness.TIME_FACTOR)
        assert server.get(f"{PATH}/{short['id']}").status == 404
        assert server.get(f"{PATH}/{kept['id']}").status == 200


def test_no_room():
    with Server(settings={"sessions": {"max": 2}, "limits": {"max_requests": 1}}) as server:
        a = create(server)
        create(server)
        r = call(server, "POST", PATH, {"messages": [SYSTEM]})
        assert r.status == 429 and r.json()["error"]["code"] == "capacity" and int(r.headers["retry-after"]) >= 1
        assert call(server, "POST", f"{PATH}/{a['id']}/fork", {}).status == 429
        delete(server, a)
        create(server)


# ---- what is wrong ----

BAD = [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": "x"}, "messages"),
    ({"messages": [{"role": "x", "content": "a"}]}, "messages[0].role"),
    ({"messages": [SYSTEM], "prompt": "x"}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"), ({"prompt": [-1]}, "prompt"), ({"prompt": [10 ** 9]}, "prompt"),
    ({"prompt": ["a"]}, "prompt"), ({"prompt": "a", "metadata": []}, "metadata"),
    ({"prompt": "a", "metadata": {"k": 1}}, "metadata.k"), ({"prompt": "a", "metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"prompt": "a", "ttl_seconds": -1}, "ttl_seconds"), ({"prompt": "a", "ttl_seconds": "x"}, "ttl_seconds"),
    ({"prompt": "a", "qttt": 1}, "qttt"), ({"prompt": "a", "qttt": {"steps": 0}}, "qttt.steps"),
    ({"prompt": "a", "qttt": {"context": {"tokens": 1}}}, "qttt.context"),
    ({"messages": [SYSTEM], "chat_template_kwargs": 1}, "chat_template_kwargs"),
]


@pytest.mark.parametrize("body, param", BAD, ids=[p + str(i) for i, (_, p) in enumerate(BAD)])
def test_bad_bodies(server, body, param):
    r = call(server, "POST", PATH, body)
    assert r.status == 400 and r.json()["error"]["param"] == param, r.body


def test_a_context_that_is_too_long(server):
    r = call(server, "POST", PATH, {"messages": [{"role": "user", "content": words(9000)}]})
    assert r.status == 400 and r.json()["error"]["code"] == "context_length_exceeded"


PATHS = [("POST", PATH), ("GET", PATH), ("GET", PATH + "/ses_x"), ("POST", PATH + "/ses_x"), ("DELETE", PATH + "/ses_x"),
         ("POST", PATH + "/ses_x/fork"), ("POST", PATH + "/ses_x/extend"), ("DELETE", PATH + "/ses_x/adapter")]


def ask_all(server, **kw):
    for method, path in PATHS:
        yield path, call(server, method, path, {"messages": [SYSTEM]} if method == "POST" else None, **kw)


def test_unknown_sessions_and_models(server):
    for path, r in ask_all(server):
        if path != PATH:
            assert r.status == 404 and r.json()["error"]["code"] == "session_not_found"
    delete(server, call(server, "GET", PATH).json()["data"][0])
    assert call(server, "POST", PATH, {"prompt": "a", "model": "other"}).status == 404


def test_methods_types_and_sizes(server):
    for path in {p for _, p in PATHS}:
        r = server.request("PUT", path, {})
        spec.check("PUT", path, r)
        assert r.status == 405
    small = Server(settings={"server": {"max_body": 2000}})
    with small as s:
        made = create(s, messages=[{"role": "user", "content": "x"}])
        for path in (PATH, f"{PATH}/{made['id']}", f"{PATH}/{made['id']}/fork", f"{PATH}/{made['id']}/extend"):
            r = s.request("POST", path, b"{}", headers={"Content-Type": "text/plain"})
            spec.check("POST", path, r)
            assert r.status == 415
            r = s.request("POST", path, {"x": "y" * 3000})
            spec.check("POST", path, r)
            assert r.status == 413
            r = s.request("POST", path, b"{")
            spec.check("POST", path, r)
            assert r.status == 400


def test_keys_are_tenants():
    """Two API keys do not see each other's sessions, even under one session key."""
    auth = [{"Authorization": f"Bearer {k}", "x-session-id": "same"} for k in ("one", "two")]
    with Server(settings={"server": {"api_keys": ["one", "two"]}}, wait="alive") as server:
        server.wait_for("/readyz", 200)
        for path, r in ask_all(server):
            assert r.status == 401
        a = create(server, headers=auth[0], metadata={"of": "one"})
        assert call(server, "GET", f"{PATH}/ses_same", headers=auth[1]).status == 404
        assert call(server, "GET", PATH, headers=auth[1]).json()["data"] == []
        b = create(server, headers=auth[1], metadata={"of": "two"})
        assert a["id"] == b["id"] == "ses_same"
        assert delete(server, a, headers=auth[0]).status == 200
        assert get(server, b, headers=auth[1])["metadata"] == {"of": "two"}


def test_while_draining():
    with Server(settings={"drain": {"timeout_seconds": harness.LONG}}) as server:
        connections = [server.connect() for _ in PATHS]
        for c in connections:
            assert c.request("GET", "/livez").status == 200
        with server.connect() as c:
            c.send(encode("POST", CHAT, {"messages": [SYSTEM], "max_tokens": 3000, "ignore_eos": True, "stream": True}))
            assert c.head()[0] == 200
            server.process.send_signal(signal.SIGTERM)
            while (r := connections[0].request("GET", PATH)).status == 200:
                pass
            for (method, path), one in zip(PATHS, [server.connect(), *connections[1:]]):
                r = one.request(method, path, json.dumps({"messages": [SYSTEM]}).encode() if method == "POST" else None)
                spec.check(method, path, r)
                assert r.status == 503
        for c in connections:
            c.close()
