"""Requests in sessions: whole histories and their branches, appends as transactions, implicit sessions, adapters."""
import threading
import time

import pytest

import harness
from harness import Server, encode, words
from test_sessions import CHAT, PATH, call, create, delete, get, wait_ready

SYSTEM = {"role": "system", "content": "Answer shortly. " + words(400, seed=3)}
PLAIN = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chat(server, messages, headers=None, **fields):
    r = call(server, "POST", CHAT, {"messages": messages, **PLAIN, **fields}, headers=headers)
    assert r.status == 200, r.body
    return r.json()


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


@pytest.fixture
def session(server):
    s = create(server, messages=[SYSTEM])
    wait_ready(server, s)
    yield s
    server.request("DELETE", f"{PATH}/{s['id']}")


# ---- whole histories ----

def test_a_conversation_goes_on_from_its_pages(server, session):
    """Turn 2 computes next to nothing of turn 1, and answers what a cold server would."""
    one = [SYSTEM, user("What is a lamp?")]
    first = chat(server, one, session=session["id"])
    s = first["session"]
    assert s["id"] == session["id"] and s["miss"] is None and s["generation"] == 0
    assert s["matched_tokens"] == session["context_tokens"]
    assert s["cached_tokens"] >= session["context_tokens"] // 64 * 64
    assert s["cached_tokens"] == first["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert s["tokens"] == first["usage"]["total_tokens"]
    two = [*one, assistant(text_of(first)), user("And a river? " + words(60))]
    second = chat(server, two, session=session["id"])
    assert second["session"]["miss"] is None
    assert second["session"]["matched_tokens"] >= first["usage"]["total_tokens"] - 1
    assert second["session"]["cached_tokens"] >= second["session"]["matched_tokens"] // 64 * 64
    now = get(server, session)
    assert now["transcript_tokens"] == second["session"]["tokens"] - session["context_tokens"]


def test_the_head_of_answers_names_the_session(server, session):
    r = call(server, "POST", CHAT, {"messages": [SYSTEM, user("Hi")], **PLAIN, "session": session["id"]})
    assert r.headers["x-session-id"] == session["id"][4:]
    r = call(server, "POST", CHAT, {"messages": [SYSTEM, user("Hi")], **PLAIN},
             headers={"x-session-id": session["id"][4:]})
    assert r.json()["session"]["id"] == session["id"]
    r = call(server, "POST", CHAT, {"messages": [SYSTEM, user("Hi")], **PLAIN}, headers={"x-session-id": session["id"]})
    assert r.json()["session"]["id"] == session["id"]


def test_streams_tell_it_in_a_last_chunk(server, session):
    for usage in (False, True):
        body = {"messages": [SYSTEM, user("Hi")], **PLAIN, "session": session["id"], "stream": True,
                "stream_options": {"include_usage": usage}}
        r = call(server, "POST", CHAT, body)
        told = [e for e in r.events() if e and e != "[DONE]" and "session" in e]
        assert len(told) == 1 and told[0]["session"]["id"] == session["id"]
        assert (told[0]["choices"] == []) == usage


def test_edit_regenerate_and_side_call(server, session):
    one = [SYSTEM, user("What is a lamp?")]
    first = chat(server, one, session=session["id"])
    again = chat(server, one, session=session["id"])  # regenerate
    assert again["session"]["miss"] is None and text_of(again) == text_of(first)
    edited = chat(server, [SYSTEM, user("What is a lamb?")], session=session["id"])["session"]
    assert edited["miss"]["reason"] == "transcript_diverged"
    assert session["context_tokens"] < edited["miss"]["position"] < session["context_tokens"] + 12
    side = chat(server, [user("Give this chat a title.")], session=session["id"])["session"]
    assert side["miss"]["reason"] == "context_diverged" and side["generation"] == 0
    assert side["matched_tokens"] == side["miss"]["position"] < session["context_tokens"]
    on = chat(server, [*one, assistant(text_of(first)), user("More.")], session=session["id"])["session"]
    assert on["miss"] is None and on["matched_tokens"] >= first["usage"]["total_tokens"] - 1


def test_misses_are_counted(server, session):
    name = ("qttt_session_misses_total", (("reason", "context_diverged"),))
    before = server.metrics().get(name, 0)
    chat(server, [user("Another context.")], session=session["id"])
    m = server.metrics()
    assert m[name] == before + 1 and m[("qttt_sessions", ())] >= 1 and m[("qttt_session_bytes", ())] > 0


def test_samples_are_branches(server, session):
    one = [SYSTEM, user("Name a thing.")]
    r = chat(server, one, session=session["id"], n=3, temperature=1, seed=1)
    for c in r["choices"]:
        on = chat(server, [*one, assistant(c["message"]["content"]), user("Another.")], session=session["id"])["session"]
        # All of the question and some of the answer, unless its text has another, shorter spelling in tokens.
        assert on["matched_tokens"] > r["usage"]["prompt_tokens"]


def test_completions_in_a_session(server):
    ids = server.post("/tokenize", {"prompt": words(300)}).json()["tokens"]
    s = create(server, prompt=ids)
    wait_ready(server, s)
    r = call(server, "POST", "/v1/completions", {"prompt": ids + [100, 101], "session": s["id"], **PLAIN})
    assert r.json()["session"]["miss"] is None and r.json()["session"]["cached_tokens"] >= len(ids) // 64 * 64
    r = call(server, "POST", "/v1/completions", {"prompt": [5] + ids, "session": s["id"], **PLAIN})
    assert r.json()["session"]["miss"] == {"position": 0, "reason": "context_diverged"}
    r = call(server, "POST", CHAT, {"messages": [user("x")], "append": True, "session": s["id"]})
    assert r.status == 400 and r.json()["error"]["code"] == "no_messages"
    delete(server, s)


# ---- implicit sessions ----

def test_a_header_makes_a_session(server):
    h = {"x-session-id": "implicit-1"}
    one = [SYSTEM, user("What is a lamp?")]
    first = chat(server, one, headers=h)
    assert first["session"]["id"] == "ses_implicit-1" and first["session"]["miss"] is None
    s = get(server, first["session"])
    assert s["implicit"] and s["status"] == "ready" and 0 < s["context_tokens"] < first["usage"]["prompt_tokens"]
    second = chat(server, [*one, assistant(text_of(first)), user("And a river?")], headers=h)["session"]
    assert second["miss"] is None and second["matched_tokens"] >= first["usage"]["total_tokens"] - 1
    appended = chat(server, [user("And a stone?")], headers=h, append=True)
    assert appended["session"]["tokens"] > second["tokens"]
    delete(server, s)


def test_what_makes_none(server):
    assert "session" not in chat(server, [user("Hi")])
    assert "session" not in chat(server, [user("Hi")], headers={"x-session-id": ""})
    assert "session" not in chat(server, [user("Hi")], prompt_cache_key="k")
    r = call(server, "POST", "/v1/completions", {"prompt": "Hi", **PLAIN}, headers={"x-session-id": "only-chats"})
    assert "session" not in r.json()
    assert call(server, "GET", f"{PATH}/ses_only-chats").status == 404
    r = call(server, "POST", CHAT, {"messages": [user("Hi")], "session": "ses_unknown"})
    assert r.status == 404 and r.json()["error"]["param"] == "session"
    r = call(server, "POST", CHAT, {"messages": [user("Hi")], "append": True}, headers={"x-session-id": "unknown"})
    assert r.status == 404


def test_a_first_request_that_is_cut_leaves_no_session(server):
    with server.connect() as c:
        c.send(encode("POST", CHAT, {"messages": [SYSTEM, user("Go on.")], "max_tokens": 500, "ignore_eos": True,
                                     "stream": True}, {"x-session-id": "cut-1"}))
        assert c.head()[0] == 200
        next(e for e in c.events() if e and e["choices"])
    server.wait_idle()
    harness.until(lambda: server.get(f"{PATH}/ses_cut-1").status == 404, seconds=5 * harness.TIME_FACTOR)


def test_implicit_sessions_can_be_turned_off_and_give_way():
    with Server(settings={"sessions": {"implicit": False}}) as server:
        assert "session" not in chat(server, [user("Hi")], headers={"x-session-id": "a"})
    with Server(settings={"sessions": {"max": 2, "header": "x-my-chat"}}) as server:
        kept = create(server, messages=[user("a")])
        for i in range(3):
            assert chat(server, [user("Hi")], headers={"x-my-chat": f"k{i}"})["session"]["id"] == f"ses_k{i}"
        ids = {s["id"] for s in server.get(PATH).json()["data"]}
        assert ids == {kept["id"], "ses_k2"}
        create(server, messages=[user("b")])  # an idle implicit one makes room; explicit ones do not
        assert "session" not in chat(server, [user("Hi")], headers={"x-my-chat": "k9"})


# ---- appends ----

def test_append_is_the_same_conversation(server, session):
    """An append answers what the whole history would, and sends only what is new."""
    one = chat(server, [user("What is a lamp?")], session=session["id"], append=True)
    two = chat(server, [user("And a river?")], session=session["id"], append=True)
    assert two["session"]["miss"] is None and two["session"]["matched_tokens"] == one["usage"]["total_tokens"]
    whole = [SYSTEM, user("What is a lamp?"), assistant(text_of(one)), user("And a river?")]
    cold = chat(server, whole)
    assert cold["usage"]["prompt_tokens"] == pytest.approx(two["usage"]["prompt_tokens"], abs=2)
    again = chat(server, whole, session=session["id"])
    assert again["session"]["matched_tokens"] > session["context_tokens"] + 10


def test_expected_tokens(server, session):
    a = chat(server, [user("One.")], session=session["id"], append=True, expected_tokens=session["context_tokens"])
    r = call(server, "POST", CHAT, {"messages": [user("One.")], **PLAIN, "session": session["id"], "append": True,
                                    "expected_tokens": session["context_tokens"]})
    assert r.status == 409 and r.json()["error"]["code"] == "expected_tokens_mismatch"
    assert r.headers["x-should-retry"] == "false"
    chat(server, [user("Two.")], session=session["id"], append=True, expected_tokens=a["session"]["tokens"])


def test_a_cut_append_that_is_retried_leaves_one_user_turn(server, session):
    body = {"messages": [user("Count to a hundred.")], "session": session["id"], "append": True, "stream": True,
            "ignore_eos": True, "temperature": 0, "expected_tokens": session["context_tokens"]}
    before = get(server, session)
    for _ in range(3):
        with server.connect() as c:
            c.send(encode("POST", CHAT, {**body, "max_tokens": 800}))
            assert c.head()[0] == 200
            next(e for e in c.events() if e and e["choices"] and e["choices"][0]["delta"].get("content"))
        server.wait_idle()
    assert get(server, session)["transcript_tokens"] == before["transcript_tokens"] == 0
    r = call(server, "POST", CHAT, {**body, "max_tokens": 20})
    assert r.status == 200
    once = server.post("/tokenize", {"messages": [SYSTEM, user("Count to a hundred.")]}).json()["count"]
    assert get(server, session)["transcript_tokens"] + session["context_tokens"] == once + 20


def test_appends_wait_for_each_other(server, session):
    answers, n = [], 4

    def one(i):
        answers.append(chat(server, [user(f"Number {i}.")], session=session["id"], append=True))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    sizes = sorted(a["session"]["tokens"] for a in answers)
    prompts = sorted(a["usage"]["prompt_tokens"] for a in answers)
    assert len(sizes) == n and all(p > s for p, s in zip(prompts[1:], sizes))  # each saw all before it
    assert get(server, session)["transcript_tokens"] + session["context_tokens"] == sizes[-1]


def test_a_waiting_append_may_leave(server, session):
    with server.connect() as running, server.connect() as waiting:
        body = {"messages": [user("x")], "session": session["id"], "append": True, "ignore_eos": True, "max_tokens": 300,
                "stream": True}
        running.send(encode("POST", CHAT, body))
        assert running.head()[0] == 200
        waiting.send(encode("POST", CHAT, body))
        r = call(server, "POST", f"{PATH}/{session['id']}/extend", {"messages": [user("x")]})
        assert r.status == 409 and r.json()["error"]["code"] == "session_busy"
        time.sleep(0.1)
    server.wait_idle()
    assert chat(server, [user("Now.")], session=session["id"], append=True)["session"]["miss"] is None


def test_conflicts_can_be_refused():
    with Server(settings={"sessions": {"append_conflict": "409"}}) as server:
        s = create(server, messages=[SYSTEM])
        with server.connect() as c:
            c.send(encode("POST", CHAT, {"messages": [user("x")], "session": s["id"], "append": True, "max_tokens": 500,
                                         "ignore_eos": True, "stream": True}))
            assert c.head()[0] == 200
            r = call(server, "POST", CHAT, {"messages": [user("y")], "session": s["id"], "append": True})
            assert r.status == 409 and r.json()["error"]["code"] == "session_busy"


def test_idempotent_appends(server, session):
    body = {"messages": [user("Once.")], "session": session["id"], "append": True, **PLAIN}
    first = call(server, "POST", CHAT, body, headers={"Idempotency-Key": "k-append"})
    again = call(server, "POST", CHAT, body, headers={"Idempotency-Key": "k-append"})
    assert again.json() == first.json()
    assert get(server, session)["transcript_tokens"] + session["context_tokens"] == first.json()["session"]["tokens"]


def test_extend_takes_the_transcript(server, session):
    a = chat(server, [user("What is a lamp?")], session=session["id"], append=True)
    r = call(server, "POST", f"{PATH}/{session['id']}/extend", {"messages": [user("Keep that.")]})
    assert r.status == 200 and r.json()["transcript_tokens"] == 0
    assert r.json()["context_tokens"] > a["session"]["tokens"]
    wait_ready(server, session)
    b = chat(server, [user("Go on.")], session=session["id"], append=True)["session"]
    assert b["miss"] is None and b["matched_tokens"] == r.json()["context_tokens"]


def test_an_append_that_waits_for_an_extension_goes_on_from_it(small_model):
    """It finds what the extension has made of the session, not what was there when it came."""
    with Server(model=small_model) as server:
        s = create(server, messages=[SYSTEM])
        wait_ready(server, s)
        append = {"messages": [user("Well?")], "session": s["id"], "append": True, **PLAIN}
        for i in range(5):
            extend = {"messages": [user(words(500, seed=i))]}
            with server.connect() as extending, server.connect() as appending:
                extending.send(encode("POST", f"{PATH}/{s['id']}/extend", extend))
                appending.send(encode("POST", CHAT, append))
                assert extending.head()[0] in (200, 409)  # 409: the append came first
                r = appending.response("POST", CHAT)
                assert r.status == 200 and r.json()["session"]["miss"] is None, r.body
            server.wait_idle()


def test_what_finishes_behind_an_extension_is_left_out(server, session):
    """A request on the old context ends after the context has grown: the next append goes on from the new one."""
    chat(server, [user("What is a lamp?")], session=session["id"], append=True)
    with server.connect() as c:
        c.send(encode("POST", CHAT, {"messages": [SYSTEM, user("Go on.")], "session": session["id"], "max_tokens": 60,
                                     "ignore_eos": True, "stream": True}))
        assert c.head()[0] == 200
        events = c.events()
        next(e for e in events if e and e["choices"])
        r = call(server, "POST", f"{PATH}/{session['id']}/extend", {"messages": [user("Keep that.")]})
        assert r.status == 200
        assert list(events)[-1] == "[DONE]"
    assert get(server, session)["transcript_tokens"] == 0
    a = chat(server, [user("Well?")], session=session["id"], append=True)["session"]
    assert a["miss"] is None and a["matched_tokens"] == r.json()["context_tokens"]


def test_forks_go_their_own_ways(server, session):
    a = chat(server, [user("What is a lamp?")], session=session["id"], append=True)
    f = call(server, "POST", f"{PATH}/{session['id']}/fork", {"adapter": "copy", "transcript": True}).json()
    bare = call(server, "POST", f"{PATH}/{session['id']}/fork", {"transcript": False}).json()
    assert f["transcript_tokens"] + f["context_tokens"] == a["session"]["tokens"] and bare["transcript_tokens"] == 0
    left = chat(server, [user("Left.")], session=session["id"], append=True)
    right = chat(server, [user("Right?")], session=f["id"], append=True)
    fresh = chat(server, [user("What is a lamp?")], session=bare["id"], append=True)
    assert left["session"]["matched_tokens"] == right["session"]["matched_tokens"] == a["session"]["tokens"]
    assert text_of(fresh) == text_of(a)
    delete(server, f)
    delete(server, bare)


# ---- a session that goes away ----

def test_delete_ends_its_streams(server):
    s = create(server, messages=[SYSTEM])
    with server.connect() as c, server.connect() as waiting:
        body = {"messages": [user("x")], "session": s["id"], "append": True, "max_tokens": 2000, "ignore_eos": True,
                "stream": True}
        c.send(encode("POST", CHAT, body))
        assert c.head()[0] == 200
        events = c.events()
        next(e for e in events if e and e["choices"])
        waiting.send(encode("POST", CHAT, {**body, "stream": False}))
        time.sleep(0.1)
        assert delete(server, s).status == 200
        last = list(events)[-1]
        assert last["error"]["code"] == "session_deleted" and last["error"]["type"] == "not_found_error"
        status, _ = waiting.head()
        assert status == 404
    server.wait_idle(2 * harness.TIME_FACTOR)


def test_a_chat_waits_for_the_prefill(server):
    long = {"role": "system", "content": words(3000, seed=8)}
    s = create(server, messages=[long])
    r = chat(server, [long, user("Hi")], session=s["id"], max_tokens=2)
    assert r["session"]["miss"] is None and r["session"]["cached_tokens"] >= s["context_tokens"] // 64 * 64
    assert get(server, s)["status"] == "ready"
    delete(server, s)


# ---- what is wrong ----

BAD = [
    ({"session": 5}, "session"), ({"append": "x"}, "append"), ({"append": True}, "append"),
    ({"expected_tokens": 3}, "expected_tokens"), ({"append": True, "expected_tokens": -1}, "expected_tokens"),
    ({"append": True, "n": 2}, "n"), ({"qttt": {"generation": -1}}, "qttt.generation"),
    ({"qttt": {"generation": "x"}}, "qttt.generation"), ({"qttt": {"start_from": "latest"}}, "qttt.start_from"),
    ({"qttt": {"mode": "on", "generation": 1}}, "qttt.generation"),
]


@pytest.mark.parametrize("fields, param", BAD, ids=[f"{p}{i}" for i, (_, p) in enumerate(BAD)])
def test_bad_fields(server, fields, param):
    r = call(server, "POST", CHAT, {"messages": [user("x")], **PLAIN, **fields})
    assert r.status == 400 and r.json()["error"]["param"] == param, r.body


def test_generations_that_are_not_there(server, session):
    r = call(server, "POST", CHAT, {"messages": [SYSTEM, user("x")], "session": session["id"], "qttt": {"generation": 3}})
    assert r.status == 404 and r.json()["error"]["code"] == "generation_unknown"
    r = call(server, "POST", CHAT, {"messages": [user("x")], "qttt": {"generation": 1}})
    assert r.status == 404 and r.json()["error"]["code"] == "generation_unknown"
    a = chat(server, [SYSTEM, user("x")], session=session["id"], qttt={"generation": 0})
    assert a["session"]["generation"] == 0 and "qttt" not in a


def test_with_the_openai_client(client, server):
    s = client.post("/sessions", body={"messages": [SYSTEM]}, cast_to=object)
    answer = client.chat.completions.create(model=server.get("/v1/models").json()["data"][0]["id"],
                                            messages=[SYSTEM, user("Hi")], max_tokens=4, extra_body={"session": s["id"]})
    assert answer.session["id"] == s["id"]
    more = client.chat.completions.create(model=answer.model, messages=[user("More")], max_tokens=4,
                                          extra_body={"append": True}, extra_headers={"x-session-id": s["id"][4:]})
    assert more.session["tokens"] > answer.session["tokens"]
    client.delete(f"/sessions/{s['id']}", cast_to=object)
