"""Diagnostics of a session: what each head of a question's last token makes of a needle. docs/api.md, Diagnostics."""
import csv
import io
import json
import math
import signal
import time

import pytest

import harness
import spec
from harness import Server, chat, encode, words

SESSIONS, CHAT = "/v1/sessions", "/v1/chat/completions"
QUESTION = "What is the harbour's code word?"
SYSTEM = {"role": "system", "content": f"{words(40, seed=3)} The harbour's code word is marzipan. {words(60, seed=9)}"}
MEASURES = ("needle_mass", "sink_mass", "margin", "gap", "near_ties", "position")


def create(server, headers=None, **fields):
    r = server.post(SESSIONS, fields or {"messages": [SYSTEM]}, headers=headers)
    assert r.status == 201, r.body
    return r.json()


def post(server, session, headers=None, **fields):
    return server.post(f"{SESSIONS}/{session['id']}/diagnostics", {"question": QUESTION, **fields}, headers=headers)


def diagnose(server, session, **fields):
    r = post(server, session, **fields)
    assert r.status == 200, r.body
    return r.json()


def refused(r, status, param=None, code=None):
    assert r.status == status, (r.status, r.body)
    error = r.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    return error["message"]


def delete(server, session):
    assert server.request("DELETE", f"{SESSIONS}/{session['id']}").status == 200


def train(server, session, **fields):
    """A job whose adapter is kept: the session's next generation."""
    body = {"steps": 4, "span_tokens": 64, "guard": False, "learning_rate": 1e-3, **fields}
    job = server.post(f"{SESSIONS}/{session['id']}/qttt/jobs", body).json()
    now = server.job(job["id"])
    assert now["status"] == "succeeded" and now["result"]["kept"], now
    return now["result"]["generation_after"]


@pytest.fixture(scope="module")
def session(server):
    s = create(server)
    yield s
    delete(server, s)


# ---- what is measured ----

def test_heads_of_a_session_without_adapter(server, session, name):
    r = post(server, session, needle="marzipan")
    d = r.json()
    assert r.headers["x-session-id"] == session["id"][4:]
    assert d["session_id"] == session["id"] and d["model"] == name and d["context_tokens"] == session["context_tokens"]
    assert (d["generation"], d["adapter_id"]) == (0, None) and (d["delta"], d["epsilon"]) == (1.0, 0.1)
    asked = server.post("/tokenize", {"messages": [SYSTEM, {"role": "user", "content": QUESTION}]}).json()["count"]
    assert d["prompt_tokens"] == asked
    assert [(h["layer"], h["head"]) for h in d["heads"]] == \
        [(i, j) for i in range(d["n_layers"]) for j in range(d["n_heads"])]
    for h in d["heads"]:
        base, margin = h["base"], h["base"]["margin"]
        assert h["keys"] == asked and h["adapted"] is None
        assert h["required_margin"] == pytest.approx(math.log((asked - 1) * 9))
        assert d["needle"]["start"] <= base["position"] < d["needle"]["end"]
        best = 1 / (1 + math.exp(-margin))
        tokens = d["needle"]["end"] - d["needle"]["start"]
        assert best <= base["needle_mass"] * (1 + 1e-9) and base["needle_mass"] <= tokens * best * (1 + 1e-9)
        assert base["needle_mass"] + base["sink_mass"] <= 1 + 1e-9
        assert margin <= base["gap"] and base["near_ties"] <= asked


def test_the_needle_s_place(server, session):
    """The text is where its tokens are: the same heads by its range, and by more or less of it."""
    tokens = server.post("/tokenize", {"messages": [SYSTEM], "add_generation_prompt": False}).json()["tokens"]
    d = diagnose(server, session, needle="marzipan")
    start, end = d["needle"]["start"], d["needle"]["end"]
    said = server.post("/detokenize", {"tokens": tokens[start:end]}).json()["prompt"]
    assert "marzipan" in said and said == d["needle"]["text"] and d["needle"]["occurrences"] == 1
    for cut in (tokens[start + 1:end], tokens[start:end - 1]):
        assert "marzipan" not in server.post("/detokenize", {"tokens": cut}).json()["prompt"]
    again = diagnose(server, session, needle=[start, end])
    assert again == d
    wide = diagnose(server, session, needle=[start - 3, end + 3])
    for a, b in zip(d["heads"], wide["heads"]):
        assert a["base"]["needle_mass"] < b["base"]["needle_mass"] and a["base"]["sink_mass"] == b["base"]["sink_mass"]


def test_the_parts_of_the_context_share_the_attention(server, session):
    n, parts = session["context_tokens"], 4
    borders = [n * i // parts for i in range(parts + 1)]
    each = [diagnose(server, session, needle=[a, b]) for a, b in zip(borders, borders[1:])]
    whole = diagnose(server, session, needle=[0, n])
    for i, h in enumerate(whole["heads"]):
        assert sum(d["heads"][i]["base"]["needle_mass"] for d in each) == pytest.approx(h["base"]["needle_mass"])
        assert each[0]["heads"][i]["base"]["needle_mass"] >= h["base"]["sink_mass"] * (1 - 1e-9)
        best = max(each, key=lambda d: d["heads"][i]["base"]["margin"])["heads"][i]["base"]
        assert (best["position"], best["margin"]) == (h["base"]["position"], h["base"]["margin"])


@pytest.mark.real_model
def test_a_trained_model_looks_at_what_comes_next(server):
    """Repeated words: some head finds what followed them the first time; after other words it does not."""
    s = create(server, prompt=SYSTEM["content"])
    found = diagnose(server, s, needle=" marzipan", question=" The harbour's code word is")
    other = diagnose(server, s, needle=" marzipan", question=" Poems of the sea can")
    best = max(range(len(found["heads"])), key=lambda i: found["heads"][i]["base"]["margin"])
    print(found["heads"][best]["base"], other["heads"][best]["base"])
    assert found["heads"][best]["base"]["margin"] > 0 and found["heads"][best]["base"]["needle_mass"] > 0.5
    assert other["heads"][best]["base"]["needle_mass"] < 0.1
    assert sum(h["base"]["sink_mass"] for h in found["heads"]) / len(found["heads"]) > 0.1
    delete(server, s)


def test_delta_and_epsilon(server, session):
    small, large = (diagnose(server, session, needle="marzipan", delta=d, epsilon=0.5) for d in (0, 1000))
    outside = small["prompt_tokens"] - (small["needle"]["end"] - small["needle"]["start"])
    for a, b in zip(small["heads"], large["heads"]):
        assert a["base"]["near_ties"] <= b["base"]["near_ties"] == outside
        assert (a["base"]["near_ties"] == 0) == (a["base"]["gap"] > 0)
        assert a["required_margin"] == pytest.approx(math.log(a["keys"] - 1))


def test_base_and_adapted_side_by_side(server):
    s = create(server, messages=[{"role": "system", "content": SYSTEM["content"] + words(300, seed=5)}])
    before = diagnose(server, s, needle="marzipan")
    assert train(server, s) == 1
    d = diagnose(server, s, needle="marzipan")
    assert d["generation"] == 1 and d["adapter_id"].startswith("adp_")
    assert [h["base"] for h in d["heads"]] == [h["base"] for h in before["heads"]]
    moved = [abs(h["base"]["margin"] - h["adapted"]["margin"]) for h in d["heads"]]
    assert max(moved) > 1e-3
    again = diagnose(server, s, needle="marzipan")
    assert again == d
    assert server.request("DELETE", f"{SESSIONS}/{s['id']}/adapter").status == 200
    assert diagnose(server, s, needle="marzipan") == before
    delete(server, s)


def test_behind_a_conversation(server):
    """The question follows the transcript, as an append would; nothing of the session changes."""
    s = create(server)
    ask = {"append": True, "session": s["id"], "max_tokens": 8, "temperature": 0}
    assert server.post(CHAT, chat("Name a colour.", **ask)).status == 200
    before = server.get(f"{SESSIONS}/{s['id']}").json()
    d = diagnose(server, s, needle="marzipan")
    assert d["prompt_tokens"] > before["context_tokens"] + before["transcript_tokens"]
    after = server.get(f"{SESSIONS}/{s['id']}").json()
    assert after["transcript_tokens"] == before["transcript_tokens"] and after["context_tokens"] == before["context_tokens"]
    answered = server.post(CHAT, chat(QUESTION, **ask)).json()
    assert answered["usage"]["prompt_tokens"] == d["prompt_tokens"]
    delete(server, s)


def test_sessions_of_raw_tokens(server):
    text = "The code word is marzipan. The word is not pepper."
    s = create(server, prompt=text)
    d = diagnose(server, s, needle=" word", question=" The code word is")
    more = len(server.post("/tokenize", {"prompt": " The code word is", "add_special_tokens": False}).json()["tokens"])
    assert d["prompt_tokens"] == s["context_tokens"] + more
    assert d["needle"]["occurrences"] == 2 and d["needle"]["text"] == " word"
    ids = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    same = create(server, prompt=ids)
    assert diagnose(server, same, needle=" word", question=" The code word is")["heads"] == d["heads"]
    for one in (s, same):
        delete(server, one)


def test_csv_says_the_same(server):
    s = create(server, messages=[{"role": "system", "content": SYSTEM["content"] + words(300, seed=6)}])
    for adapted in (False, True):
        d = diagnose(server, s, needle="marzipan")
        r = post(server, s, needle="marzipan", headers={"Accept": "text/csv"})
        assert r.status == 200 and r.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(r.body.decode())))
        assert len(rows) == len(d["heads"])
        for row, h in zip(rows, d["heads"]):
            assert [int(row[k]) for k in ("layer", "head", "keys")] == [h[k] for k in ("layer", "head", "keys")]
            assert float(row["required_margin"]) == h["required_margin"]
            for side in ("base", "adapted"):
                for key in MEASURES:
                    cell = row[f"{side}_{key}"]
                    assert (float(cell) if cell else None) == (h[side] or {}).get(key)
        if not adapted:
            train(server, s)
    for accept in ("application/json", "*/*", "text/csvish"):
        assert "json" in post(server, s, needle="marzipan", headers={"Accept": accept}).headers["content-type"]
    delete(server, s)


# ---- what is refused ----

@pytest.mark.parametrize("fields,param,code", [
    ({"needle": "no such text in it"}, "needle", "needle_not_found"), ({"needle": ""}, "needle", "needle_not_found"),
    ({}, "needle", None), ({"needle": 7}, "needle", None), ({"needle": [1]}, "needle", None),
    ({"needle": [1, 2, 3]}, "needle", None), ({"needle": [5, 5]}, "needle", None), ({"needle": [-1, 5]}, "needle", None),
    ({"needle": [0, 1.5]}, "needle", None), ({"needle": [0, 100000]}, "needle", None), ({"needle": [0, 2**70]}, "needle", None),
    ({"needle": [0, 1], "question": ""}, "question", None), ({"needle": [0, 1], "question": None}, "question", None),
    ({"needle": [0, 1], "question": [1]}, "question", None),
    ({"needle": [0, 1], "question": words(9000)}, "question", "context_length_exceeded"),
    ({"needle": [0, 1], "delta": -1}, "delta", None), ({"needle": [0, 1], "delta": "x"}, "delta", None),
    ({"needle": [0, 1], "epsilon": 0}, "epsilon", None), ({"needle": [0, 1], "epsilon": 1}, "epsilon", None)])
def test_bad_requests(server, session, fields, param, code):
    refused(post(server, session, **fields), 400, param, code)


def test_the_needle_lies_in_the_context(server, session):
    """Not in the question, nor behind the context's end."""
    refused(post(server, session, needle="zzyzx", question="zzyzx?"), 400, "needle", "needle_not_found")
    n = session["context_tokens"]
    assert post(server, session, needle=[n - 1, n]).status == 200
    refused(post(server, session, needle=[n - 1, n + 1]), 400, "needle")


def test_other_refusals(server, session):
    path = f"{SESSIONS}/{session['id']}/diagnostics"
    refused(server.post(f"{SESSIONS}/ses_nobody/diagnostics", {"question": "a", "needle": [0, 1]}), 404,
            code="session_not_found")
    assert post(server, session, needle=[0, 1], model="other").status == 404
    assert server.request("GET", path).status == 405
    assert server.request("POST", path, b"{}", headers={"Content-Type": "text/plain"}).status == 415
    assert server.request("POST", path, b"{").status == 400
    r = post(server, session, needle=[0, 1], colour="red")
    assert r.status == 200 and r.headers["x-qttt-ignored-params"] == "colour"


def test_settings_that_refuse():
    settings = {"server": {"api_keys": ["one", "two"], "max_body": 4000, "strict": True}}
    auth = {"Authorization": "Bearer one"}
    with Server(settings=settings, wait="alive") as server:
        server.wait_for("/readyz", 200)
        s = create(server, headers=auth)
        assert post(server, s, needle=[0, 1]).status == 401
        assert post(server, s, needle=[0, 1], headers={"Authorization": "Bearer two"}).status == 404
        assert post(server, s, needle=[0, 1], headers=auth).status == 200
        refused(post(server, s, needle=[0, 1], headers=auth, colour="red"), 400, "colour", "unsupported_parameter")
        assert post(server, s, needle="x" * 5000, headers=auth).status == 413


# ---- beside others ----

def occupy(server, n=1):
    """Streams that keep the server busy."""
    connections = [server.connect() for _ in range(n)]
    for c in connections:
        c.send(encode("POST", CHAT, chat("Count.", stream=True, max_tokens=7000, ignore_eos=True)))
        assert c.head()[0] == 200
    return connections


def test_leaving_deleting_and_a_full_queue(narrow):
    s = create(narrow)
    alone = diagnose(narrow, s, needle="marzipan")
    path, body = f"{SESSIONS}/{s['id']}/diagnostics", {"question": QUESTION, "needle": "marzipan"}
    busy = occupy(narrow)
    narrow.wait_load(lambda r, w: (r, w) == (1, 0), harness.LONG)
    with narrow.connect() as leaver:
        leaver.send(encode("POST", path, body))
        narrow.wait_load(lambda r, w: (r, w) == (1, 1), harness.LONG)
    narrow.wait_load(lambda r, w: (r, w) == (1, 0), harness.LONG)  # it has left
    waiting = occupy(narrow, 8)
    r = narrow.post(path, body)
    assert r.status == 429 and int(r.headers["retry-after"]) >= 1
    for c in waiting:
        c.close()
    narrow.wait_load(lambda r, w: (r, w) == (1, 0), harness.LONG)
    with narrow.connect() as late, narrow.connect() as gone:
        other = create(narrow, messages=[SYSTEM])
        late.send(encode("POST", path, body))
        gone.send(encode("POST", f"{SESSIONS}/{other['id']}/diagnostics", body))
        narrow.wait_load(lambda r, w: r == 1 and w >= 2, harness.LONG)
        delete(narrow, other)
        refused(gone.response("POST", f"{SESSIONS}/{other['id']}/diagnostics"), 404, code="session_deleted")
        for c in busy:
            c.close()
        assert late.response("POST", path).json() == alone
    delete(narrow, s)


def test_the_operators_time_limit():
    seconds = 0.1  # no model reads so much in that time
    with Server(settings={"server": {"request_timeout": seconds}}) as server:
        s = create(server, prompt=words(4800, seed=61))
        r = post(server, s, needle=[0, 1])
        assert r.status == 408 and r.headers["x-should-retry"] == "false"
        delete(server, s)


def test_while_draining():
    with Server(settings={"drain": {"timeout_seconds": harness.LONG}}) as server:
        s = create(server)
        path, body = f"{SESSIONS}/{s['id']}/diagnostics", {"question": QUESTION, "needle": "marzipan"}
        idle, probe = server.connect(), server.connect()
        assert idle.request("GET", "/livez").status == 200
        busy = occupy(server)
        server.process.send_signal(signal.SIGTERM)
        while probe.request("GET", f"{SESSIONS}/{s['id']}").status == 200:
            pass
        r = idle.request("POST", path, json.dumps(body).encode())
        assert r.status == 503
        for c in (*busy, idle, probe):
            c.close()


def test_a_second_signal_cuts_what_runs():
    with Server(settings={"sched": {"max_running": 1}, "drain": {"timeout_seconds": harness.LONG}}) as server:
        s = create(server)
        path, body = f"{SESSIONS}/{s['id']}/diagnostics", {"question": QUESTION, "needle": "marzipan"}
        busy = occupy(server)
        with server.connect() as c:
            c.send(encode("POST", path, body))
            server.wait_load(lambda r, w: w >= 1, harness.LONG)
            for _ in range(2):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
            refused(c.response("POST", path), 503, code="draining")
        for c in busy:
            c.close()


def test_the_document_agrees_with_the_measures():
    assert set(spec.resolve(spec.component("HeadMeasure"))["properties"]) == set(MEASURES)
