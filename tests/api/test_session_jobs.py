"""Jobs that train on a session, and requests that run once under an Idempotency-Key. docs/api.md."""
import itertools
import signal
import threading
import time

import pytest

import harness
from harness import words

CHAT, SESSIONS, JOBS = "/v1/chat/completions", "/v1/sessions", "/v1/qttt/jobs"
# About 650 tokens: too few for the guard's probe, so that a job is quick.
SHORT = words(500, seed=78)
QUICK = {"steps": 2, "span_tokens": 32, "guard": False}
LONG_RUN = {"steps": 256, "span_tokens": 64, "guard": False}
seeds = itertools.count(5000)


def session(server, text=SHORT, headers=None, **fields):
    r = server.post(SESSIONS, {"prompt": text, **fields}, headers=headers)
    assert r.status == 201, r.body
    return r.json()["id"]


def post(server, ses, fields=QUICK, **kw):
    return server.post(f"{SESSIONS}/{ses}/qttt/jobs", {"seed": next(seeds), **fields}, **kw)


def create(server, ses, fields=QUICK, **kw):
    r = post(server, ses, fields, **kw)
    assert r.status == 202, r.body
    return r.json()


def get(server, job):
    return server.get(f"{JOBS}/{job['id']}").json()


def act(server, job, what):
    r = server.post(f"{JOBS}/{job['id']}/{what}", None)
    assert r.status == 200, r.body
    return r.json()


def generation(server, ses):
    return server.get(f"{SESSIONS}/{ses}").json()["generation"]


def error(response, status, kind="invalid_request_error", **more):
    assert response.status == status, (response.status, response.body)
    e = response.json()["error"]
    assert e["type"] == kind
    for key, value in more.items():
        assert e[key] == value, e
    return e


# ---- life ----

def test_a_job_makes_the_next_generation(server, name):
    ses = session(server)
    r = post(server, ses, {**QUICK, "metadata": {"who": "me"}, "budget": {"max_seconds": 500}})
    job = r.json()
    assert r.status == 202 and r.headers["location"] == f"{JOBS}/{job['id']}"
    assert job["id"] == f"qttt_{ses[4:]}_1" and job["session_id"] == ses and job["model"] == name
    assert job["status"] in ("queued", "running") and job["metadata"] == {"who": "me"}
    assert job["budget"] == {"max_seconds": 500, "max_span_tokens": None} and job["result"] is None
    first = server.job(job)
    assert first["status"] == "succeeded" and first["stop_reason"] == "steps"
    assert (first["result"]["generation_before"], first["result"]["generation_after"]) == (0, 1)
    assert first["result"]["kept"] and first["result"]["trained_tokens"] == 64 and first["result"]["flops"] > 0
    tokens = server.get(f"{SESSIONS}/{ses}").json()["context_tokens"]
    assert first["hyperparameters"]["context_tokens"] == tokens, "it trains on the context, all of it"
    second = server.job(create(server, ses))
    assert (second["result"]["generation_before"], second["result"]["generation_after"]) == (1, 2)
    s = server.get(f"{SESSIONS}/{ses}").json()
    assert s["generation"] == 2
    assert [(g["generation"], g["job_id"]) for g in s["generations"]] == [(2, second["id"]), (1, first["id"])]
    listed = server.get(f"{SESSIONS}/{ses}/qttt/jobs").json()
    assert [j["id"] for j in listed["data"]] == [second["id"], first["id"]] and listed["has_more"] is False
    assert server.get(f"{SESSIONS}/{session(server)}/qttt/jobs").json()["data"] == []
    error(server.get(f"{SESSIONS}/{ses}/qttt/jobs?limit=0"), 400, param="limit")


def test_a_body_is_optional():
    """Every default: the guard then has no probe in so short a context, and the job says so."""
    with harness.Server() as s:
        ses = session(s)
        r = s.post(f"{SESSIONS}/{ses}/qttt/jobs", None)
        assert r.status == 202
        job = s.job(r.json())
        assert job["status"] == "failed" and job["error"]["code"] == "guard_unavailable"
        assert job["hyperparameters"]["steps"] == 32 and job["hyperparameters"]["seed"] == 0
        assert generation(s, ses) == 0


@pytest.mark.parametrize("rate", harness.DISCARDED)
def test_what_the_guard_discards_is_a_success_without_a_generation(server, rate):
    ses = session(server, words(1500, seed=42) + f"\n{rate}")  # no probe of the other is remembered
    job = server.job(create(server, ses, {"steps": 6, "span_tokens": 64, "learning_rate": rate}))
    assert job["status"] == "succeeded" and job["result"]["kept"] is False
    assert job["result"]["recall"]["segments"] == 10
    assert job["result"]["generation_after"] == 0 and generation(server, ses) == 0
    events = server.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert [e["data"]["phase"] for e in events if e["type"] == "probe"] == ["before", "after"]
    assert events[-1]["data"] == {"status": "succeeded", "reason": "guard_discarded"}


def test_further_training(server):
    ses = session(server)
    first = server.job(create(server, ses))
    job = server.job(create(server, ses, {**QUICK, "start_from": "latest"}))
    assert job["status"] == "succeeded" and job["hyperparameters"]["start_from"] == "latest"
    assert first["hyperparameters"]["start_from"] == "base"
    assert generation(server, ses) == 2


def test_budgets(server):
    ses = session(server)
    job = server.job(create(server, ses, {**LONG_RUN, "span_tokens": 32, "budget": {"max_span_tokens": 96}}))
    assert (job["status"], job["stop_reason"], job["steps_done"]) == ("succeeded", "span_tokens", 3)
    job = server.job(create(server, ses, {**LONG_RUN, "budget": {"max_seconds": 0.5}}))
    assert (job["status"], job["stop_reason"]) == ("succeeded", "seconds")
    assert job["steps_done"] < 256 and job["result"]["seconds"] < 10 * harness.TIME_FACTOR


def test_the_default_of_a_session_starts_its_job(server):
    ses = session(server, qttt={"mode": "on", **QUICK, "seed": next(seeds)})
    jobs = server.until(f"{SESSIONS}/{ses}/qttt/jobs", lambda r: r["data"])["data"]
    assert server.job(jobs[0])["status"] == "succeeded" and generation(server, ses) == 1


# ---- several jobs ----

def test_jobs_of_one_session_run_one_after_another(server):
    ses = session(server)
    first, second = create(server, ses, LONG_RUN), create(server, ses)
    assert second["id"].endswith("_2")
    server.job(first, lambda j: j["steps_done"] >= 1)
    waiting = server.job(second, lambda j: j["queue"] is not None)
    assert waiting["status"] == "queued" and waiting["queue"]["reason"] == "session_job"
    assert waiting["estimated_finish"] is None and waiting["started_at"] is None
    assert server.job(first, lambda j: j["steps_done"] >= 3)["estimated_finish"] is not None
    assert get(server, second)["status"] == "queued"
    act(server, first, "cancel")
    assert server.job(first)["status"] == "cancelled"
    done = server.job(second)
    assert done["status"] == "succeeded" and done["result"]["generation_after"] == 1, "a cancelled job published nothing"
    assert generation(server, ses) == 1


def test_a_queued_job_can_be_cancelled_and_paused(server):
    ses = session(server)
    first, second, third = (create(server, ses, LONG_RUN) for _ in range(3))
    server.job(first, lambda j: j["steps_done"] >= 1)
    act(server, second, "cancel")
    assert server.job(second, lambda j: j["status"] == "cancelled", 10 * harness.TIME_FACTOR)["started_at"] is None
    act(server, third, "pause")
    act(server, first, "cancel")
    server.job(first)
    paused = server.job(third, lambda j: j["status"] == "paused")
    time.sleep(0.3)
    assert get(server, third)["steps_done"] == paused["steps_done"]
    act(server, third, "resume")
    server.job(third, lambda j: j["steps_done"] > paused["steps_done"])
    act(server, third, "cancel")
    assert server.job(third)["status"] == "cancelled"
    assert generation(server, ses) == 0


def test_deleting_a_session_cancels_its_jobs(server):
    ses = session(server)
    first, second = create(server, ses, LONG_RUN), create(server, ses, LONG_RUN)
    server.job(first, lambda j: j["steps_done"] >= 1)
    assert server.request("DELETE", f"{SESSIONS}/{ses}").status == 200
    for job in (first, second):
        assert server.job(job, seconds=10 * harness.TIME_FACTOR)["status"] == "cancelled"
    error(server.get(f"{SESSIONS}/{ses}/qttt/jobs"), 404, "not_found_error", code="session_not_found")
    error(post(server, ses), 404, "not_found_error", code="session_not_found")


def test_followers_of_a_session_s_job_hear_of_the_server_s_end():
    with harness.Server(settings={"drain": {"timeout_seconds": 0.5}}) as s:
        job = create(s, session(s), LONG_RUN)
        with s.connect() as c:
            c.send(harness.encode("GET", f"{JOBS}/{job['id']}/events", headers={"Accept": "text/event-stream"}))
            assert c.head()[0] == 200
            events = c.events()
            next(events)
            s.process.send_signal(signal.SIGTERM)
            last = list(events)[-1]
            assert last["error"]["code"] == "draining"


def test_a_full_queue_of_jobs():
    with harness.Server(settings={"qttt": {"max_queued_jobs": 1}}) as s:
        ses = session(s)
        running = create(s, ses, LONG_RUN)
        s.job(running, lambda j: j["steps_done"] >= 1)
        create(s, ses, LONG_RUN)
        r = post(s, ses, LONG_RUN)
        error(r, 429, "rate_limit_error", code="queue_full")
        assert int(r.headers["retry-after"]) >= 1
        assert len(s.get(f"{SESSIONS}/{ses}/qttt/jobs").json()["data"]) == 2, "what was refused left no job"


# ---- what is refused ----

def test_expected_generation(server):
    ses = session(server)
    assert server.job(create(server, ses, {**QUICK, "expected_generation": 0}))["status"] == "succeeded"
    for wrong in (0, 2):
        r = post(server, ses, {**QUICK, "expected_generation": wrong})
        error(r, 409, "conflict_error", code="generation_mismatch", param="expected_generation")
        assert r.headers["x-should-retry"] == "false"
    assert server.job(create(server, ses, {**QUICK, "expected_generation": 1}))["result"]["generation_after"] == 2


@pytest.mark.parametrize("fields,param", [
    ({"steps": 0}, "steps"), ({"steps": 257}, "steps"), ({"span_tokens": 15}, "span_tokens"), ({"rank": 65}, "rank"),
    ({"learning_rate": 0.5}, "learning_rate"), ({"optimizer": "sgd"}, "learning_rate"), ({"layers": [99]}, "layers"),
    ({"budget": {"max_seconds": 0}}, "budget.max_seconds"), ({"budget": 3}, "budget"), ({"mode": "off"}, "mode"),
    ({"mode": "auto"}, "mode"), ({"context": {"tokens": 5}}, "context"), ({"generation": "latest"}, "generation"),
    ({"start_from": "x"}, "start_from"), ({"expected_generation": -1}, "expected_generation"),
    ({"expected_generation": "0"}, "expected_generation"), ({"metadata": {"a": 1}}, "metadata.a"), ({"metadata": []}, "metadata"),
    ({"seed": -1}, "seed"), ({"guard": 1}, "guard")])
def test_values_that_are_refused(server, fields, param):
    e = error(post(server, session(server, "A few words."), fields), 400, param=param)
    assert e["message"].startswith(param), "named as in the body, without qttt."


def test_bodies_that_are_refused(server):
    ses = session(server, "A few words.")
    path = f"{SESSIONS}/{ses}/qttt/jobs"
    for body in (b"{", b"[]", b"null", b'{"steps": 2} x', b'{"a":' * 100):
        error(server.post(path, body), 400)
    error(server.post(path, b"{}", headers={"Content-Type": "text/plain"}), 415)
    error(server.post(path, {"metadata": {"a": "x" * 200000}}), 413)
    r = post(server, ses, {**QUICK, "no_such": 1, "other": 2})
    assert r.status == 202 and sorted(r.headers["x-qttt-ignored-params"].split(", ")) == ["no_such", "other"]
    server.job(r.json())
    with harness.Server(settings={"server": {"strict": True, "api_keys": ["one", "two"]}}) as s:
        one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
        ses = session(s, "A few words.", headers=one)
        error(post(s, ses, {**QUICK, "no_such": 1}, headers=one), 400, param="no_such")
        for method in ("GET", "POST"):
            path = f"{SESSIONS}/{ses}/qttt/jobs"
            error(s.request(method, path, {} if method == "POST" else None, headers=two), 404, "not_found_error")
            error(s.request(method, path, {} if method == "POST" else None), 401, "authentication_error")


def test_no_new_jobs_while_draining():
    with harness.Server(settings={"drain": {"timeout_seconds": 1}}) as s:
        ses = session(s)
        job = create(s, ses, LONG_RUN)
        with s.connect() as c, s.connect() as follower:
            follower.send(harness.encode("GET", f"{JOBS}/{job['id']}/events", headers={"Accept": "text/event-stream"}))
            assert follower.head()[0] == 200  # an answer that is not complete keeps the server
            assert c.request("GET", "/livez").status == 200
            s.process.send_signal(signal.SIGTERM)
            while (r := c.request("GET", "/readyz")).status != 503:
                pass
            r = c.request("POST", f"{SESSIONS}/{ses}/qttt/jobs", {})
            error(r, 503, "service_unavailable", code="draining")
            assert int(r.headers["retry-after"]) >= 1


# ---- Idempotency-Key ----

def keyed(key):
    return {"Idempotency-Key": key}


def test_a_job_under_a_key_is_created_once(server):
    ses = session(server)
    body = {**QUICK, "seed": next(seeds)}
    first = post(server, ses, body, headers=keyed("job-1"))
    server.job(first.json())
    again = post(server, ses, body, headers=keyed("job-1"))
    assert (again.status, again.body) == (202, first.body), "as it was answered, not as it is"
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    error(post(server, ses, {**body, "steps": 3}, headers=keyed("job-1")), 400, code="idempotency_key_used")
    other = post(server, ses, body, headers=keyed("job-2"))
    assert other.status == 202 and other.json()["id"] != first.json()["id"]
    server.job(other.json())
    assert len(server.get(f"{SESSIONS}/{ses}/qttt/jobs").json()["data"]) == 2
    # Another session's path is another request.
    elsewhere = post(server, session(server), body, headers=keyed("job-1"))
    assert elsewhere.status == 202 and elsewhere.json()["session_id"] != ses
    server.job(elsewhere.json())


def test_errors_are_not_kept(server):
    """Nothing was done, so the key is free: the same key may carry what was meant."""
    ses = session(server)
    error(post(server, ses, {**QUICK, "steps": 0}, headers=keyed("err-1")), 400)
    r = post(server, ses, QUICK, headers=keyed("err-1"))
    assert r.status == 202
    server.job(r.json())


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "\x7f"])
def test_keys_that_are_refused(server, key):
    error(post(server, session(server, "A few words."), headers=keyed(key)), 400, param="Idempotency-Key")


def test_a_session_under_a_key_is_created_once(server):
    body = {"prompt": "A few words.", "metadata": {"a": "b"}}
    count = len(server.get(f"{SESSIONS}?limit=100").json()["data"])
    first = server.post(SESSIONS, body, headers=keyed("ses-1"))
    again = server.post(SESSIONS, body, headers=keyed("ses-1"))
    assert first.status == again.status == 201 and first.body == again.body
    assert again.headers["x-session-id"] == first.headers["x-session-id"]
    assert len(server.get(f"{SESSIONS}?limit=100").json()["data"]) == count + 1
    fork = f"{SESSIONS}/{first.json()['id']}/fork"
    a, b = (server.post(fork, {}, headers=keyed("ses-1")) for _ in range(2))
    assert a.status == b.status == 201 and a.json()["id"] == b.json()["id"] != first.json()["id"]


def test_the_same_request_twice_at_a_time(server):
    """Of two that arrive together one runs; the other is told so, or gets the first one's answer."""
    body = {"prompt": words(4000, seed=3)}
    answers, start = [], threading.Barrier(2)

    def run():
        with server.connect() as c:
            start.wait()
            answers.append(c.request("POST", SESSIONS, body, keyed("twice-1")))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(a.status for a in answers) in ([201, 201], [201, 409])
    for a in answers:
        if a.status == 409:
            error(a, 409, "conflict_error", code="idempotency_key_in_use")
            assert a.headers["x-should-retry"] == "false"
    assert len({a.json()["id"] for a in answers if a.status == 201}) == 1


def append(server, ses, text, key, headers=None, **fields):
    return server.post(CHAT, {"messages": [{"role": "user", "content": text}], "append": True, "max_tokens": 40,
                              "ignore_eos": True, "temperature": 0, **({"session": ses} if ses else {}), **fields},
                       headers={**keyed(key), **(headers or {})})


def transcript(server, ses):
    return server.get(f"{SESSIONS}/{ses}").json()["transcript_tokens"]


def chat_session(server):
    r = server.post(SESSIONS, {"messages": [{"role": "system", "content": "Be brief."}]})
    assert r.status == 201
    return r.json()["id"]


def test_a_streamed_append_is_given_again_as_it_was(server):
    ses = chat_session(server)
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    first = append(server, ses, "Count.", "stream-1", **fields)
    assert first.status == 200 and first.events()[-1] == "[DONE]"
    tokens = transcript(server, ses)
    again = append(server, ses, "Count.", "stream-1", **fields)
    assert again.body == first.body and again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotent-replayed"] == "true" and transcript(server, ses) == tokens > 0
    error(append(server, ses, "Count!", "stream-1", **fields), 400, code="idempotency_key_used")


def test_a_long_stream_is_kept_whole_though_its_reader_is_slow(server):
    """More than the stream's backlog and than what the server drops at once."""
    ses = chat_session(server)
    fields = {"stream": True, "max_tokens": 400, "logprobs": True, "top_logprobs": 20}
    body = {"messages": [{"role": "user", "content": "Count."}], "append": True, "session": ses, "temperature": 0,
            "ignore_eos": True, **fields}
    with server.connect() as c:
        c.send(harness.encode("POST", CHAT, body, keyed("stream-2")))
        status, _ = c.head()
        time.sleep(1)
        first = b"".join(c.chunks())
    assert status == 200 and len(first) > 300000
    again = server.post(CHAT, body, headers=keyed("stream-2"))
    assert again.body == first


def test_an_append_that_was_cut_runs_again_under_its_key(server):
    ses = chat_session(server)
    body = {"messages": [{"role": "user", "content": "Count."}], "append": True, "session": ses, "max_tokens": 300,
            "ignore_eos": True, "temperature": 0, "stream": True}
    with server.connect() as c:
        c.send(harness.encode("POST", CHAT, body, keyed("cut-1")))
        assert c.head()[0] == 200
        chunks = c.chunks()
        next(chunks)
        busy = server.post(CHAT, body, headers=keyed("cut-1"))
        error(busy, 409, "conflict_error", code="idempotency_key_in_use")
        assert busy.headers["x-should-retry"] == "false"
    server.wait_idle()
    assert transcript(server, ses) == 0
    again = server.post(CHAT, body, headers=keyed("cut-1"))
    assert again.status == 200 and again.events()[-1] == "[DONE]" and "idempotent-replayed" not in again.headers
    assert transcript(server, ses) > 300


def test_one_key_in_two_sessions_that_a_header_names(server):
    """Neither path nor body tell the two requests apart."""
    ids = [chat_session(server) for _ in range(2)]
    for ses in ids:
        r = append(server, None, "Count.", "two-1", headers={"x-session-id": ses[4:]})
        assert r.status == 200 and "idempotent-replayed" not in r.headers and r.headers["x-session-id"] == ses[4:]
    assert transcript(server, ids[0]) == transcript(server, ids[1]) > 0


def test_stateless_requests_ignore_the_key(server):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for text in ("Hi", "Ho"):
        body["messages"][0]["content"] = text
        r = server.post(CHAT, body, headers=keyed("stateless-1"))
        assert r.status == 200 and "idempotent-replayed" not in r.headers


def test_an_answer_that_is_too_large_to_keep():
    with harness.Server(settings={"idempotency": {"max_size": "64KiB", "max_entries": 2}}) as s:
        ses = chat_session(s)
        big = {"stream": True, "max_tokens": 100, "logprobs": True, "top_logprobs": 20}
        first = append(s, ses, "Count.", "big-1", **big)
        assert first.status == 200 and len(first.body) > 16384
        tokens = transcript(s, ses)
        error(append(s, ses, "Count.", "big-1", **big), 409, "conflict_error", code="idempotency_key_used")
        assert transcript(s, ses) == tokens, "it ran once all the same"
        for key in ("a", "b", "c"):
            assert append(s, ses, "Go on.", key, max_tokens=1).status == 200
        assert append(s, ses, "Go on.", "c", max_tokens=1).headers.get("idempotent-replayed") == "true"
        assert "idempotent-replayed" not in append(s, ses, "Go on.", "a", max_tokens=1).headers, "the oldest had to go"
