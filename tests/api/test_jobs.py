"""qTTT jobs: of sessions and inside of requests; lists, events, cancel, pause, retention. docs/api.md."""
import itertools
import time

import pytest

import harness
import spec
from harness import words

CHAT, JOBS = "/v1/chat/completions", "/v1/qttt/jobs"
# About 650 tokens: too few for the guard's probe, so that a job is quick.
SHORT = words(500, seed=77)
QUICK = {"mode": "on", "steps": 2, "span_tokens": 32, "guard": False}
# Runs for as long as a test needs it.
LONG_RUN = {"mode": "on", "steps": 256, "span_tokens": 64, "guard": False}
seeds = itertools.count(1000)


def body_of(qttt, document=SHORT, **fields):
    return {"messages": [{"role": "system", "content": document}, {"role": "user", "content": "What?"}],
            "max_tokens": 2, "temperature": 0, "qttt": {"seed": next(seeds), **qttt}, **fields}


def trained(server, qttt=QUICK, **kw):
    """The job of a request that was answered."""
    r = server.post(CHAT, body_of(qttt), **kw)
    assert r.status == 200, r.body
    return server.get(f"{JOBS}/{r.json()['qttt']['job_id']}", **kw).json()


class Running:
    """A request that trains while the block runs, its connection, and its job."""

    def __init__(self, server, qttt=LONG_RUN, **fields):
        self.server = server
        known = {j["id"] for j in server.get(f"{JOBS}?limit=100").json()["data"]}
        self.connection = server.connect()
        self.connection.send(harness.encode("POST", CHAT, body_of(qttt, **fields)))
        new = harness.until(lambda: [j for j in server.get(f"{JOBS}?limit=100").json()["data"] if j["id"] not in known])
        assert len(new) == 1
        self.id = new[0]["id"]

    def act(self, what):
        r = self.server.post(f"{JOBS}/{self.id}/{what}", None)
        assert r.status == 200, r.body
        return r.json()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def error(response, status, kind="invalid_request_error", **more):
    assert response.status == status, (response.status, response.body)
    e = response.json()["error"]
    assert e["type"] == kind
    for key, value in more.items():
        assert e[key] == value, e


# ---- the training of a request ----

def test_the_training_of_a_request_is_a_job(server, name):
    r = server.post(CHAT, body_of(QUICK)).json()
    answer = r["qttt"]
    job = server.get(f"{JOBS}/{answer['job_id']}").json()
    assert job["status"] == "succeeded" and job["model"] == name and job["session_id"] is None
    assert job["hyperparameters"] == answer["hyperparameters"] and job["stop_reason"] == "steps"
    for key in ("steps_done", "trained_tokens", "kept", "recall", "delta_norm_relative", "flops", "equal_cost_tokens",
                "adapter_bytes", "loss_first", "loss_last"):
        assert job["result"][key] == answer[key], key
    assert (job["result"]["generation_before"], job["result"]["generation_after"]) == (0, 1)
    assert job["created_at"] <= job["started_at"] <= job["finished_at"] <= time.time()
    assert job["queue"] is None and job["estimated_finish"] is None and job["metadata"] == {}
    events = server.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert [e["data"]["step"] for e in events if e["type"] == "step"] == [1, 2]
    assert [e["data"]["status"] for e in events if e["type"] == "status"] == ["running", "succeeded"]
    assert [e["sequence_number"] for e in events] == list(range(1, len(events) + 1))
    assert job["id"] == server.get(JOBS).json()["first_id"]


def test_probes_are_events(server):
    r = server.post(CHAT, body_of({**QUICK, "guard": True}, document=words(1500, seed=42))).json()["qttt"]
    events = server.get(f"{JOBS}/{r['job_id']}/events").json()["data"]
    probes = {e["data"]["phase"]: e["data"]["recall"] for e in events if e["type"] == "probe"}
    assert probes == {"before": pytest.approx(r["recall"]["before"]), "after": pytest.approx(r["recall"]["after"])}
    job = server.get(f"{JOBS}/{r['job_id']}").json()
    assert job["status"] == "succeeded" and job["result"]["kept"] == r["kept"]


def test_what_was_cached_is_a_job_that_trained_nothing(server):
    body = body_of(QUICK)
    server.post(CHAT, body)
    again = server.post(CHAT, body).json()["qttt"]
    job = server.get(f"{JOBS}/{again['job_id']}").json()
    assert again["cached"] and job["result"]["cached"] and job["status"] == "succeeded" and job["result"]["flops"] == 0


def test_what_was_cached_has_ended_before_the_answer(server):
    """A long answer holds no job that has nothing to do."""
    body = body_of(QUICK)
    server.post(CHAT, body)
    with server.connect() as c:
        c.send(harness.encode("POST", CHAT, {**body, "stream": True, "max_tokens": 2000, "ignore_eos": True}))
        assert c.head()[0] == 200
        next(e for e in c.events() if e and e["choices"] and e["choices"][0]["delta"].get("content"))
        job = server.get(JOBS).json()["data"][0]
        assert job["status"] == "succeeded" and job["result"]["cached"], job
        assert server.load()[0] >= 1  # the answer goes on


def test_what_is_skipped_is_no_job(server):
    before = server.get(JOBS).json()["first_id"]
    q = server.post(CHAT, body_of({"mode": "on", "guard": True})).json()["qttt"]
    assert q["status"] == "skipped" and q["job_id"] is None
    assert server.get(JOBS).json()["first_id"] == before


def test_samples_share_one_job(server):
    before = len(server.get(f"{JOBS}?limit=100").json()["data"])
    r = server.post(CHAT, body_of(QUICK, n=3)).json()
    assert len(server.get(f"{JOBS}?limit=100").json()["data"]) == before + 1
    assert server.get(f"{JOBS}/{r['qttt']['job_id']}").json()["result"]["cached"] is False


def test_cancelling_the_job_of_a_request_lets_the_base_answer(server):
    plain = server.post(CHAT, body_of({"mode": "off"}, logprobs=True)).json()
    for samples in (1, 2):
        with Running(server, logprobs=True, n=samples) as run:
            server.job(run.id, lambda job: job["steps_done"] >= 1)
            run.act("cancel")
            run.act("cancel")
            job = server.job(run.id, lambda job: job["status"] != "running", 5 * harness.TIME_FACTOR)
            assert job["status"] == "cancelled" and job["error"] is None and job["result"]["kept"] is False
            answer = run.connection.response("POST", CHAT)
            assert answer.status == 200
            answer = answer.json()
            assert answer["qttt"]["status"] == "cancelled" and answer["qttt"]["generation"] == 0
            assert answer["qttt"]["job_id"] == run.id
            assert len(answer["choices"]) == samples
            assert answer["choices"][0]["logprobs"] == plain["choices"][0]["logprobs"]
            # Over is over.
            for what in ("cancel", "pause", "resume"):
                assert run.act(what) == job


def test_a_stream_tells_its_job_while_it_trains(server):
    body = body_of(LONG_RUN, stream=True, stream_options={"include_progress": True})
    with server.connect() as c:
        c.send(harness.encode("POST", CHAT, body))
        assert c.head()[0] == 200
        events = c.events()
        job_id = next(e["progress"]["job_id"] for e in events if e and e.get("progress", {}).get("phase") == "adapt")
        assert server.get(f"{JOBS}/{job_id}").json()["status"] == "running"
        assert server.post(f"{JOBS}/{job_id}/cancel", None).status == 200
        rest = [e for e in events if e is not None]
        (qttt,) = [e["qttt"] for e in rest if e != "[DONE]" and "qttt" in e]
        assert rest[-1] == "[DONE]" and qttt["status"] == "cancelled" and qttt["job_id"] == job_id


def test_a_client_that_leaves_cancels_its_job(server):
    with Running(server) as run:
        server.job(run.id, lambda job: job["steps_done"] >= 1)
    job = server.job(run.id, lambda job: job["status"] != "running", 5 * harness.TIME_FACTOR)
    assert job["status"] == "cancelled"


def test_pause_and_resume(server):
    with Running(server) as run:
        server.job(run.id, lambda job: job["steps_done"] >= 2)
        for _ in range(2):
            run.act("pause")
            paused = server.job(run.id, lambda job: job["status"] == "paused", 10 * harness.TIME_FACTOR)
        assert paused["estimated_finish"] is None and paused["finished_at"] is None
        time.sleep(0.3)
        assert server.job(run.id, lambda job: True)["steps_done"] == paused["steps_done"]
        for _ in range(2):
            run.act("resume")
            job = server.job(run.id, lambda job: job["status"] == "running", 10 * harness.TIME_FACTOR)
        server.job(run.id, lambda job: job["steps_done"] > paused["steps_done"])
        run.act("pause")
        server.job(run.id, lambda job: job["status"] == "paused")
        run.act("cancel")  # also of one that stands still
        job = server.job(run.id, lambda job: job["status"] == "cancelled", 10 * harness.TIME_FACTOR)
        events = server.get(f"{JOBS}/{run.id}/events?limit=1000").json()["data"]
        assert [e["data"]["status"] for e in events if e["type"] == "status"] == \
            ["running", "paused", "running", "paused", "cancelled"]


def test_the_estimate_comes_true(server):
    """From the first steps of a job of 40; wide bounds, because the machine may have other work."""
    with Running(server, {**LONG_RUN, "steps": 40}) as run:
        job = server.job(run.id, lambda job: job["steps_done"] >= 8)
        now, said = time.time(), job["estimated_finish"]
        assert said is not None
        end = server.job(run.id, lambda job: job["status"] == "succeeded")["finished_at"]
        assert (end - now) / 3 - 2 <= said - now <= (end - now) * 3 + 2, (now, said, end)
        assert run.connection.response("POST", CHAT).status == 200


# ---- lists ----

def test_lists(server):
    ids = [trained(server)["id"] for _ in range(3)][::-1]
    page = server.get(f"{JOBS}?limit=2").json()
    assert [j["id"] for j in page["data"]] == ids[:2] and page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[1])
    page = server.get(f"{JOBS}?limit=1&after={ids[1]}").json()
    assert [j["id"] for j in page["data"]] == ids[2:]
    everything = server.get(f"{JOBS}?limit=100").json()["data"]
    oldest = server.get(f"{JOBS}?limit=100&order=asc").json()
    assert oldest["data"] == everything[::-1] and oldest["has_more"] is False
    last = server.get(f"{JOBS}?order=asc&after={ids[0]}").json()
    assert last == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order"),
                         ("after=qttt_none_1", "after")):
        error(server.get(f"{JOBS}?{query}"), 400, param=param)


def test_unknown_jobs(server):
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume")):
        error(server.request(method, f"{JOBS}/qttt_none_1{path}"), 404, "not_found_error", code="job_not_found")
    for what in ("cancel", "pause", "resume"):
        error(server.post(f"{JOBS}/x/{what}", b"a=b", headers={"Content-Type": "text/plain"}), 415)


def test_large_bodies_of_actions():
    with harness.Server(settings={"server": {"max_body": "1KiB"}}, wait="alive") as s:
        for what in ("cancel", "pause", "resume"):
            error(s.post(f"{JOBS}/x/{what}", {"x": "y" * 2000}), 413)


def test_another_key_sees_nothing():
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    with harness.Server(settings={"server": {"api_keys": ["one", "two"]}}) as s:
        for path in (JOBS, f"{JOBS}/x", f"{JOBS}/x/events"):
            error(s.get(path), 401, "authentication_error")
        for what in ("cancel", "pause", "resume"):
            error(s.post(f"{JOBS}/x/{what}", {}), 401, "authentication_error")
        job = trained(s, headers=one)
        assert s.get(JOBS, headers=one).json()["data"] == [job]
        assert s.get(JOBS, headers=two).json()["data"] == []
        for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume")):
            error(s.request(method, f"{JOBS}/{job['id']}{path}", headers=two), 404, "not_found_error")


# ---- events ----

def follow(server, job_id, query="", headers=None):
    r = server.get(f"{JOBS}/{job_id}/events{query}", headers={"Accept": "text/event-stream", **(headers or {})})
    assert r.status == 200 and r.headers["content-type"].startswith("text/event-stream")
    events = [e for e in r.events() if e is not None]
    assert events[-1] == "[DONE]"
    return events[:-1]


def test_events_in_pages(server):
    job = trained(server, {**QUICK, "steps": 5})
    path = f"{JOBS}/{job['id']}/events"
    whole = server.get(path).json()
    assert len(whole["data"]) == 7 and whole["has_more"] is False
    pages, after = [], "0"
    while True:
        page = server.get(f"{path}?after={after}&limit=3").json()
        pages += page["data"]
        assert page["first_id"] == str(page["data"][0]["sequence_number"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert pages == whole["data"] and after == "7"
    assert server.get(f"{path}?after=7").json()["data"] == []
    assert server.get(f"{path}?after=123456789012345678").json()["data"] == []
    for query, param in (("after=-1", "after"), ("after=x", "after"), ("after=", "after"), ("after=" + "9" * 19, "after"),
                         ("limit=1001", "limit"), ("limit=0", "limit")):
        error(server.get(f"{path}?{query}"), 400, param=param)


def test_events_of_an_ended_job_as_a_stream(server):
    job = trained(server, {**QUICK, "steps": 5})
    whole = server.get(f"{JOBS}/{job['id']}/events").json()["data"]
    assert follow(server, job["id"]) == whole
    assert follow(server, job["id"], "?after=4") == whole[4:]
    assert follow(server, job["id"], "", {"Last-Event-ID": "6"}) == whole[6:]
    assert follow(server, job["id"], "?after=1", {"Last-Event-ID": "6"}) == whole[1:]
    assert follow(server, job["id"], "?after=99") == []
    assert follow(server, job["id"], "", {"Accept": "application/json;q=0.1, Text/Event-Stream"}) == whole
    error(server.get(f"{JOBS}/{job['id']}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}), 400,
          param="Last-Event-ID")
    r = server.get(f"{JOBS}/{job['id']}/events", headers={"Accept": "*/*"})
    assert r.headers["content-type"].startswith("application/json")


def test_events_are_followed_until_the_end(server):
    """Heartbeats while nothing happens; each step as it comes; then [DONE]. Another follower leaves on the way."""
    with Running(server) as run:
        with server.connect() as c, server.connect() as leaving:
            for one in (c, leaving):
                one.send(harness.encode("GET", f"{JOBS}/{run.id}/events", headers={"Accept": "text/event-stream"}))
                assert one.head()[0] == 200
            events, seen = c.events(), []
            for e in events:
                if e is not None:
                    spec.check_event("/v1/qttt/jobs/{id}/events", e, "followed")
                    seen.append(e)
                if sum(x["type"] == "step" for x in seen) == 3:
                    break
            leaving.close()
            at = time.monotonic()
            run.act("pause")
            while next(events) is not None:  # the heartbeat of conftest.py's settings
                pass
            assert time.monotonic() - at < 10 * harness.TIME_FACTOR
            run.act("cancel")
            rest = [e for e in events if e is not None]
            assert rest[-1] == "[DONE]" and rest[-2]["data"]["status"] == "cancelled"
        steps = server.get(f"{JOBS}/{run.id}").json()["steps_done"]
        logged = server.get(f"{JOBS}/{run.id}/events?limit=1000").json()["data"]
        assert [e["data"]["step"] for e in logged if e["type"] == "step"] == list(range(1, steps + 1))


def test_the_log_of_a_job_is_bounded(small_model):
    """The oldest steps go, statuses stay, numbers are kept; finished jobs are kept for a count and a time."""
    settings = {"jobs": {"max_events": 16, "max_finished": 2, "retention_seconds": 3 * harness.TIME_FACTOR}}
    with harness.Server(settings=settings, model=small_model) as s:
        job = trained(s, {**QUICK, "steps": 40, "span_tokens": 16})
        events = s.get(f"{JOBS}/{job['id']}/events").json()["data"]
        assert [e["sequence_number"] for e in events] == [1, *range(28, 43)]
        assert [e["data"]["step"] for e in events if e["type"] == "step"] == list(range(27, 41))
        assert follow(s, job["id"], "?after=30") == [e for e in events if e["sequence_number"] > 30]
        ids = [job["id"], *(trained(s)["id"] for _ in range(2))]
        assert [j["id"] for j in s.get(JOBS).json()["data"]] == ids[:0:-1]
        error(s.get(f"{JOBS}/{job['id']}"), 404, "not_found_error")
        s.until(JOBS, lambda r: not r["data"], 9 * harness.TIME_FACTOR)  # three times that
        error(s.get(f"{JOBS}/{ids[2]}"), 404, "not_found_error")


def test_followers_hear_of_the_servers_end():
    import signal
    with harness.Server(settings={"drain": {"timeout_seconds": 0.5}}) as s:
        with Running(s) as run, s.connect() as c:
            c.send(harness.encode("GET", f"{JOBS}/{run.id}/events", headers={"Accept": "text/event-stream"}))
            assert c.head()[0] == 200
            events = c.events()
            next(events)
            s.process.send_signal(signal.SIGTERM)
            last = list(events)[-2:]
            assert last[0]["data"]["status"] == "cancelled" and last[1] == "[DONE]"
