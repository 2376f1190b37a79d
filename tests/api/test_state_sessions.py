"""Sessions outlive the server: SIGTERM, SIGKILL, a full memory, a folder that is in use, unusable or damaged."""
import contextlib
import json
import signal
import sqlite3
import subprocess
import time

import pytest

import harness
from harness import Server, parse_events, words
from restart import Restarting
from test_session_adapters import train
from test_session_turns import assistant, chat, user
from test_sessions import PATH, call, create, delete, get, wait_ready

CONTEXT = {"role": "system", "content": words(150, seed=11)}
ENDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture
def lives(tmp_path):
    """Makes a server with these settings that can be started again, on the state folder tmp_path / "state"."""
    with contextlib.ExitStack() as made:
        yield lambda **settings: made.enter_context(Restarting(tmp_path / "state", settings))


def do(server, method, path, body, status):
    r = call(server, method, path, body)
    assert r.status == status, r.body
    return r.json()


def numbers(answer):
    return [(t["token"], t["logprob"]) for t in answer["choices"][0]["logprobs"]["content"]]


def ask(server, session, messages, **fields):
    return chat(server, messages, session=session["id"], logprobs=True, **fields)


def stable(session):
    """What may not change over a restart."""
    return {k: v for k, v in session.items() if k not in ("resident", "kv_bytes", "last_used_at", "expires_at", "status",
                                                    "prefilled_tokens")}


def state_of(server):
    body = server.get("/readyz").json()
    return body["state"], body["state_message"]


@pytest.mark.parametrize("how", ENDS)
def test_everything_acknowledged_is_there_and_answers_the_same(lives, how):
    life = lives()
    server = life.server
    session = create(server, messages=[CONTEXT], metadata={"a": "b\u00e9\"\\"}, ttl_seconds=5000)
    wait_ready(server, session)
    first = ask(server, session, [user("What is a lamp?")], append=True)
    fork = do(server, "POST", f"{PATH}/{session['id']}/fork", {"metadata": {"fork": "1"}}, 201)
    second = ask(server, session, [user("And a stone?")], append=True)
    trained = ask(server, fork, [user("Why?")], append=True, qttt=train())
    assert trained["qttt"]["generation"] == 1
    implicit = server.post("/v1/chat/completions", {"messages": [user("hello there")], "max_tokens": 4},
                           headers={"x-session-id": "mine"}).json()["session"]
    gone = create(server, messages=[user("to be deleted")])
    delete(server, gone)
    prompt = create(server, prompt=[5, 6, 7, 8])
    do(server, "POST", f"{PATH}/{prompt['id']}", {"metadata": {"now": "new"}, "ttl_seconds": 0}, 200)
    before = {i: get(server, {"id": i}) for i in (session["id"], fork["id"], prompt["id"], implicit["id"])}
    order = [s["id"] for s in server.get(PATH).json()["data"]]
    assert all(s["durable"] for s in before.values())

    server = life.again(how)
    assert [s["id"] for s in server.get(PATH).json()["data"]] == order
    assert server.get(f"{PATH}/{gone['id']}").status == 404
    for i, old in before.items():
        now = get(server, {"id": i})
        assert now["status"] == "ready" and now["resident"] == "disk" and stable(now) == stable(old)
    # Greedy answers and their numbers are those of a session that never left.
    whole = [CONTEXT, user("What is a lamp?"), assistant(first["choices"][0]["message"]["content"])]
    assert numbers(ask(server, session, [*whole, user("And a stone?")])) == numbers(second)
    assert get(server, session)["resident"] == "device"
    a = ask(server, session, [user("What else?")], append=True)
    assert a["session"]["miss"] is None or a["session"]["miss"]["reason"] == "evicted"
    assert a["session"]["tokens"] == get(server, session)["context_tokens"] + get(server, session)["transcript_tokens"]
    b = ask(server, fork, [user("Why?")], append=True, qttt={"generation": "base"})
    assert b["session"]["generation"] == 0
    extended = do(server, "POST", f"{PATH}/{fork['id']}/extend", {"messages": [user("more text")]}, 200)
    assert extended["context_tokens"] > before[fork["id"]]["context_tokens"] and extended["transcript_tokens"] == 0
    assert server.post("/v1/chat/completions", {"messages": [user("hello there")], "max_tokens": 4},
                       headers={"x-session-id": "mine"}).json()["session"]["id"] == implicit["id"]

    server = life.again(how)  # a second time: extended, and restored rows written again
    assert get(server, fork)["context_tokens"] == extended["context_tokens"]
    tokens = get(server, session)
    assert tokens["context_tokens"] + tokens["transcript_tokens"] == a["session"]["tokens"]


def test_appends_before_and_after_are_one_conversation(lives):
    """What a server that was killed after each turn answers is what one that was not answers."""
    life = lives()
    questions = ["What is a lamp?", "And a stone?", "Which is older?"]
    server = life.server
    steady = create(server, messages=[CONTEXT])
    expected = [numbers(ask(server, steady, [user(q)], append=True)) for q in questions]
    session = create(server, messages=[CONTEXT])
    for q, numbers_before in zip(questions, expected):
        server = life.again(signal.SIGKILL)
        assert numbers(ask(server, session, [user(q)], append=True)) == numbers_before


def test_what_a_stream_has_ended_with_is_there(lives):
    """[DONE] goes out after the commit: a server that is killed at that moment has the turn."""
    life = lives()
    server = life.server
    session = create(server, messages=[user("Go on.")])
    for i in range(3):
        r = server.post("/v1/chat/completions", {"session": session["id"], "append": True, "stream": True, "max_tokens": 4,
                                                 "ignore_eos": True, "messages": [user(f"And {i}?")]})
        events = parse_events(r.body)
        assert events[-1] == "[DONE]"
        server = life.again(signal.SIGKILL)
        now = get(server, session)
        assert now["context_tokens"] + now["transcript_tokens"] == events[-2]["session"]["tokens"]


def test_adapters_survive(lives):
    """Generations answer bit for bit what they did, each by its number; training goes on from the latest."""
    life = lives()
    server = life.server
    session = create(server, messages=[CONTEXT])
    question = [CONTEXT, user("So?")]
    base = numbers(ask(server, session, question))
    answers = [numbers(ask(server, session, question, qttt=train(seed=i))) for i in range(2)]
    assert len({str(a) for a in [base, *answers]}) == 3
    fork = do(server, "POST", f"{PATH}/{session['id']}/fork", {}, 201)
    server = life.again(signal.SIGKILL)
    for s in (session, fork):
        for generation, expected in ((0, base), (1, answers[0]), (2, answers[1]), ("latest", answers[1])):
            assert numbers(ask(server, s, question, qttt={"generation": generation})) == expected, generation
    more = ask(server, session, question, qttt=train(seed=5, start_from="latest"))
    assert more["qttt"]["generation"] == 3
    server = life.again(signal.SIGTERM)
    assert numbers(ask(server, session, question)) == numbers(more)
    assert numbers(ask(server, fork, question)) == answers[1]


def test_reset_survives(lives):
    life = lives()
    server = life.server
    session = create(server, messages=[CONTEXT])
    base = ask(server, session, [CONTEXT, user("So?")])
    ask(server, session, [CONTEXT, user("So?")], qttt=train())
    assert get(server, session)["generation"] == 1
    do(server, "DELETE", f"{PATH}/{session['id']}/adapter", None, 200)
    server = life.again(signal.SIGKILL)
    assert get(server, session)["generation"] == 0 and get(server, session)["generations"] == []
    assert numbers(ask(server, session, [CONTEXT, user("So?")])) == numbers(base)


def test_expired_sessions_do_not_come_back(lives):
    life = lives()
    server = life.server
    short = create(server, messages=[user("short")], ttl_seconds=1)
    long = create(server, messages=[user("long")], ttl_seconds=1000)
    life.end(signal.SIGKILL)
    time.sleep(1.2)
    server = life.begin()
    assert [s["id"] for s in server.get(PATH).json()["data"]] == [long["id"]]
    assert server.get(f"{PATH}/{short['id']}").status == 404


def test_memory_pressure_sends_idle_sessions_to_disk(lives):
    life = lives(sessions={"memory": "64KiB"})
    server = life.server
    made = [create(server, messages=[{"role": "system", "content": words(200, seed=i)}]) for i in range(12)]
    now = [get(server, s) for s in made]
    assert {s["resident"] for s in now} == {"disk", "device"}
    assert server.metrics()[("qttt_session_bytes", ())] <= 64 * 1024
    first = ask(server, made[0], [user("Hm?")], append=True, max_tokens=3)
    assert first["session"]["tokens"] > now[0]["context_tokens"] and get(server, made[0])["transcript_tokens"] > 0
    assert do(server, "POST", f"{PATH}/{made[1]['id']}/fork", {}, 201)["context_tokens"] == now[1]["context_tokens"]


def test_a_second_server_is_refused(lives):
    life = lives()
    r = subprocess.run([harness.BINARY, "serve", "--model", str(harness.MODEL), "--port", str(harness.free_port()),
                        "--state-dir", life.folder], capture_output=True, text=True, timeout=harness.LONG)
    assert r.returncode == 1
    assert r.stderr.count("\n") == 1 and f"process {life.server.process.pid}" in r.stderr, r.stderr


def test_a_newer_schema_is_refused(lives):
    life = lives()
    life.end(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(life.folder / "state.db")) as db:
        db.execute("PRAGMA user_version = 7")
    r = subprocess.run([harness.BINARY, "serve", "--model", str(harness.MODEL), "--port", str(harness.free_port()),
                        "--state-dir", life.folder], capture_output=True, text=True, timeout=harness.LONG)
    assert r.returncode == 1 and "newer version" in r.stderr


def test_a_corrupt_database_is_kept_aside(lives):
    life = lives()
    create(life.server, messages=[user("lost")])
    life.end(signal.SIGTERM)
    database = life.folder / "state.db"
    database.write_bytes(b"rubbish" * 1000)
    server = life.begin()
    state, message = state_of(server)
    assert state == "durable" and "state.db.corrupt-1" in message
    assert (life.folder / "state.db.corrupt-1").read_bytes() == b"rubbish" * 1000
    assert server.get(PATH).json()["data"] == []
    session = create(server, messages=[user("new")])
    server = life.again(signal.SIGKILL)
    assert get(server, session)["durable"] and state_of(server) == ("durable", None)


def test_damaged_tokens_are_noticed(lives):
    """Never a wrong answer: the session has failed, another is untouched."""
    life = lives()
    server = life.server
    bad, good = create(server, messages=[CONTEXT]), create(server, messages=[user("fine")])
    life.end(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(life.folder / "state.db")) as db:
        key = json.loads(db.execute("SELECT json FROM session WHERE id = ?", (bad["id"],)).fetchone()[0])["parts"][0]["key"]
        blob = bytearray(db.execute("SELECT blob FROM context WHERE id = ?", (key,)).fetchone()[0])
        blob[40] ^= 1
        db.execute("UPDATE context SET blob = ? WHERE id = ?", (bytes(blob), key))
        db.commit()
    server = life.begin()
    r = server.post("/v1/chat/completions", {"session": bad["id"], "append": True, "messages": [user("?")]})
    assert r.status == 500 and r.json()["error"]["code"] == "state_unavailable" and "damaged" in r.json()["error"]["message"]
    now = get(server, bad)
    assert now["status"] == "failed" and now["error"]["code"] == "state_unavailable"
    assert ask(server, good, [user("?")], append=True, max_tokens=2)["session"]["id"] == good["id"]
    delete(server, bad)


def test_sessions_of_another_model_cannot_be_used(lives):
    life = lives()
    session = create(life.server, messages=[CONTEXT])
    life.end(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(life.folder / "state.db")) as db:
        row = json.loads(db.execute("SELECT json FROM session").fetchone()[0])
        row["model"] = "0123456789abcdef-0123456789abcdef"
        db.execute("UPDATE session SET json = ?", (json.dumps(row),))
        db.commit()
    server = life.begin()
    now = get(server, session)
    assert now["status"] == "failed" and now["error"]["code"] == "session_of_another_model"
    for path, body in (("/v1/chat/completions", {"session": session["id"], "messages": [user("?")]}),
                       (f"{PATH}/{session['id']}/fork", {}), (f"{PATH}/{session['id']}/extend", {"messages": [user("?")]}),
                       (f"{PATH}/{session['id']}/qttt/jobs", {})):
        r = server.post(path, body)
        assert r.status == 409 and r.json()["error"]["code"] == "session_of_another_model", path
    delete(server, session)


def test_a_folder_that_fails_degrades_and_comes_back(lives, tmp_path):
    folder = tmp_path / "state"
    folder.write_text("not a folder: root cannot write into it either")
    life = lives()
    server = life.server
    state, message = state_of(server)
    assert state == "degraded" and "state.dir" in message
    session = create(server, messages=[CONTEXT])
    assert not session["durable"]
    ask(server, session, [user("In memory?")], append=True, max_tokens=3)
    folder.unlink()
    folder.mkdir()
    harness.until(lambda: state_of(server)[0] == "durable", told=server.log_text, every=0.1)
    now = get(server, session)
    assert now["durable"]
    server = life.again(signal.SIGKILL)
    assert stable(get(server, session)) == stable(now)


def test_none_keeps_nothing(tmp_path):
    with Server("--state-dir", "none") as server:
        session = create(server, messages=[user("gone soon")])
        assert not session["durable"] and state_of(server) == ("off", None)
