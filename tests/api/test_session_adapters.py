"""Adapters in sessions: kept trainings are generations, which one answers, what becomes of old ones."""
import time

import pytest

from harness import Server, encode, words
from test_session_turns import PLAIN, assistant, chat, text_of, user
from test_sessions import CHAT, PATH, call, create, delete, get, wait_ready

CONTEXT = {"role": "system", "content": words(120, seed=5)}
QUESTION = [CONTEXT, user("What is a lamp?")]


def train(seed=0, **fields):
    """Quick, kept whatever it is worth, and large enough to be seen in the answer's numbers."""
    return {"mode": "on", "steps": 2, "span_tokens": 32, "learning_rate": 1e-3, "guard": False, "seed": seed, **fields}


@pytest.fixture
def session(server):
    s = create(server, messages=[CONTEXT])
    wait_ready(server, s)
    yield s
    server.request("DELETE", f"{PATH}/{s['id']}")


def numbers(answer):
    return [t["logprob"] for t in answer["choices"][0]["logprobs"]["content"]]


def ask(server, session, **fields):
    return chat(server, QUESTION, session=session["id"], logprobs=True, **fields)


def test_a_kept_training_is_the_next_generation(server, session):
    base = ask(server, session)
    a = ask(server, session, qttt=train())
    assert a["qttt"]["status"] == "succeeded" and a["qttt"]["kept"] and a["qttt"]["generation"] == 1
    assert a["session"]["generation"] == 1 and numbers(a) != numbers(base)
    assert a["qttt"]["hyperparameters"]["context_tokens"] == session["context_tokens"]
    s = get(server, session)
    assert s["generation"] == 1 and s["adapter_bytes"] > 0
    assert s["generations"] == [{"generation": 1, "adapter_id": a["qttt"]["adapter_id"], "job_id": a["qttt"]["job_id"],
                                 "adapter_bytes": s["adapter_bytes"]}]
    assert a["qttt"]["job_id"].startswith("qttt_" + session["id"][4:] + "_")
    latest = ask(server, session)
    assert latest["session"]["generation"] == 1 and "qttt" not in latest and numbers(latest) == numbers(a)
    again = ask(server, session, qttt=train())  # never compounds
    assert again["qttt"]["cached"] and again["qttt"]["generation"] == 1 and get(server, session)["generation"] == 1
    assert numbers(again) == numbers(a)
    for off in ({"generation": "base"}, {"generation": 0}, False):
        plain = ask(server, session, qttt=off)
        assert plain["session"]["generation"] == 0 and numbers(plain) == numbers(base)


def test_generations_can_be_chosen_until_they_are_gone():
    with Server(settings={"adapters": {"max_generations": 2}}) as server:
        session = create(server, messages=[CONTEXT])
        answers = [ask(server, session, qttt=train(seed=i)) for i in range(3)]
        assert [a["qttt"]["generation"] for a in answers] == [1, 2, 3]
        s = get(server, session)
        assert [g["generation"] for g in s["generations"]] == [3, 2]
        assert numbers(ask(server, session, qttt={"generation": 2})) == numbers(answers[1])
        assert numbers(ask(server, session, qttt={"generation": 3})) == numbers(answers[2])
        body = {"messages": QUESTION, "session": session["id"], **PLAIN}
        r = call(server, "POST", CHAT, {**body, "qttt": {"generation": 1}})
        assert r.status == 404 and r.json()["error"]["code"] == "generation_gone"
        r = call(server, "POST", CHAT, {**body, "qttt": {"generation": 4}})
        assert r.status == 404 and r.json()["error"]["code"] == "generation_unknown"
        assert call(server, "DELETE", f"{PATH}/{session['id']}/adapter").json()["generations"] == []
        r = call(server, "POST", CHAT, {**body, "qttt": {"generation": 3}})
        assert r.status == 404 and r.json()["error"]["code"] == "generation_gone"
        assert ask(server, session)["session"]["generation"] == 0
        assert ask(server, session, qttt=train(seed=9))["qttt"]["generation"] == 4  # numbers go on


def test_further_training_from_the_latest(server, session):
    first = ask(server, session, qttt=train())
    further = ask(server, session, qttt=train(seed=1, start_from="latest"))
    fresh = ask(server, session, qttt=train(seed=1))
    assert further["qttt"]["hyperparameters"]["start_from"] == "latest" and further["qttt"]["generation"] == 2
    assert fresh["qttt"]["hyperparameters"]["start_from"] == "base" and fresh["qttt"]["generation"] == 3
    assert further["qttt"]["adapter_id"] not in (first["qttt"]["adapter_id"], fresh["qttt"]["adapter_id"])
    assert further["qttt"]["delta_norm_relative"] > fresh["qttt"]["delta_norm_relative"]


def test_a_transcript_of_another_adapter_is_run_again(server, session):
    first = ask(server, session)
    ask(server, session, qttt=train())
    on = [*QUESTION, assistant(text_of(first)), user("And a river?")]
    s = chat(server, on, session=session["id"])["session"]
    assert s["generation"] == 1 and s["miss"] is None or s["miss"]["reason"] in ("adapter_changed", "transcript_diverged")
    a = chat(server, [user("x")], session=session["id"], append=True, qttt={"generation": "base"})["session"]
    assert a["miss"] == {"position": session["context_tokens"], "reason": "adapter_changed"} and a["generation"] == 0


def test_another_context_is_not_trained_on(server, session):
    other = [user("Give this chat a title. " + words(200, seed=1))]
    a = chat(server, other, session=session["id"], qttt=train())
    assert (a["qttt"]["status"], a["qttt"]["reason"]) == ("skipped", "context_diverged")
    assert a["qttt"]["generation"] == 0 and a["qttt"]["adapter_id"] is None and a["qttt"]["job_id"] is None
    assert get(server, session)["generation"] == 0
    body = {"messages": QUESTION, "session": session["id"], **PLAIN, "qttt": train(context={"tokens": 40})}
    r = call(server, "POST", CHAT, body)
    assert r.status == 400 and r.json()["error"]["param"] == "qttt.context"


def test_the_session_s_default(server):
    s = create(server, messages=[CONTEXT], qttt=train(seed=4))
    assert s["qttt"]["seed"] == 4
    a = chat(server, QUESTION, session=s["id"])
    assert a["qttt"]["kept"] and a["session"]["generation"] == a["qttt"]["generation"] == 1
    plain = chat(server, QUESTION, session=s["id"], qttt=False)
    assert "qttt" not in plain and plain["session"]["generation"] == 0
    delete(server, s)


def test_forks_pin_what_they_copy(server, session):
    a = ask(server, session, qttt=train(seed=6))
    copy = call(server, "POST", f"{PATH}/{session['id']}/fork", {"adapter": "copy", "transcript": False}).json()
    base = call(server, "POST", f"{PATH}/{session['id']}/fork", {"adapter": "base", "transcript": False}).json()
    assert copy["generation"] == 1 and base["generation"] == 0
    delete(server, session)
    assert numbers(ask(server, copy)) == numbers(a)
    assert ask(server, base)["session"]["generation"] == 0
    delete(server, copy)
    delete(server, base)


def test_a_prompt_that_is_the_context_and_no_more(server):
    ids = server.post("/tokenize", {"prompt": words(100, seed=6)}).json()["tokens"]
    for n in (len(ids), len(ids) // 64 * 64):  # whole pages too
        s = create(server, prompt=ids[:n])
        fields = {"prompt": ids[:n], "session": s["id"], "logprobs": 1, **PLAIN}
        base = call(server, "POST", "/v1/completions", fields).json()
        a = call(server, "POST", "/v1/completions", {**fields, "qttt": train()}).json()
        assert base["session"]["miss"] is None and a["qttt"]["kept"] and a["session"]["generation"] == 1
        latest = call(server, "POST", "/v1/completions", fields).json()
        assert latest["choices"] == a["choices"] != base["choices"]
        again = call(server, "POST", "/v1/completions", {**fields, "qttt": False}).json()
        assert again["choices"] == base["choices"]
        delete(server, s)


def test_samples_of_one_adaptation(server, session):
    a = chat(server, QUESTION, session=session["id"], qttt=train(seed=7), n=3, temperature=1, seed=1)
    assert a["qttt"]["generation"] == 1 and len(a["choices"]) == 3 and get(server, session)["generation"] == 1


def test_an_implicit_session_keeps_its_adapter(server):
    h = {"x-session-id": "with-adapter"}
    long = [{"role": "system", "content": words(600, seed=2)}, user("What is a lamp?")]
    a = chat(server, long, headers=h, qttt=train())
    assert a["qttt"]["kept"] and a["session"]["generation"] == 1
    on = chat(server, [*long, assistant(text_of(a)), user("And a river?")], headers=h)
    assert on["session"]["generation"] == 1 and on["session"]["miss"] is None
    delete(server, on["session"])


def test_a_short_chat_gets_its_context_later(server):
    """Nothing to adapt to at first: the first request that has something decides."""
    h = {"x-session-id": "grows"}
    a = chat(server, [user("Hi")], headers=h)
    assert get(server, a["session"])["context_tokens"] == 0
    long = [user("Hi"), assistant(text_of(a)), user(words(700, seed=4)), assistant("Yes."), user("What is a lamp?")]
    b = chat(server, long, headers=h, qttt=train())
    assert b["qttt"]["kept"] and get(server, a["session"])["context_tokens"] > 512
    delete(server, a["session"])


def leave_while_training(server, session, after, seed):
    with server.connect() as c:
        c.send(encode("POST", CHAT, {"messages": QUESTION, "session": session["id"], "max_tokens": 300, "ignore_eos": True,
                                     "stream": True, "qttt": train(seed=seed)}))
        assert c.head()[0] == 200
        time.sleep(after)
    server.wait_idle()


def test_nothing_stays_pinned():
    """There is room for two adapters. Were one pinned for ever, by a session that is gone or a client that left, the
    last session could not have two."""
    one = 30 * 576 * 576 * 2  # BF16, of every layer
    with Server(settings={"qttt": {"adapter_cache": 2 * one + one // 2}}) as server:
        for i in range(3):
            s = create(server, messages=[CONTEXT])
            assert ask(server, s, qttt=train(seed=i))["qttt"]["kept"]
            f = call(server, "POST", f"{PATH}/{s['id']}/fork", {}).json()
            delete(server, s)
            assert ask(server, f)["session"]["generation"] == 1
            delete(server, f)
        s = create(server, messages=[CONTEXT])
        for i in range(4):  # before, in, and after the training
            leave_while_training(server, s, 0.2 * i, seed=10 + i)
        delete(server, s)
        s = create(server, messages=[CONTEXT])
        assert [ask(server, s, qttt=train(seed=20 + i))["qttt"]["generation"] for i in range(2)] == [1, 2]
        assert len(get(server, s)["generations"]) == 2
