"""Jobs and answers under an Idempotency-Key over the end of the process, asked for or not. docs/operations.md."""
import contextlib
import signal
import sqlite3
import time

import pytest

import harness
import restart
from harness import ENDED, words
from restart import JOBS, SESSIONS

SHORT = words(500, seed=78)
QUICK = {"steps": 2, "span_tokens": 32, "guard": False}
LONG_RUN = {"steps": 256, "span_tokens": 192, "guard": False}
# Takes longer than what a test does meanwhile; no plateau before step 64.
SLOW = {"steps": int(60 / min(harness.TIME_FACTOR, 2)), "span_tokens": 64, "guard": False}
ENDS = [signal.SIGTERM, signal.SIGKILL]
SETTINGS = {"drain": {"timeout_seconds": 1}}


@pytest.fixture
def folder():
    with restart.state_dir() as d:
        yield d


@pytest.fixture
def begin(folder, small_model):
    """begin(settings): a server on the test's folder."""
    return lambda settings=None, at=folder: restart.Restarting(at, settings, small_model)


def session(s, text=SHORT, **fields):
    return s.post(SESSIONS, {"prompt": text, **fields}, 201)["id"]


def create(s, ses, fields=QUICK, **kw):
    return s.post(f"{SESSIONS}/{ses}/qttt/jobs", fields, 202, **kw)


def act(s, job, what):
    return s.post(f"{JOBS}/{job['id']}/{what}", None)


def rows(folder, table):
    with contextlib.closing(sqlite3.connect(f"{folder}/state.db")) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def numbers_are_fine(events):
    n = [e["sequence_number"] for e in events]
    assert n[0] == 1 and all(a < b for a, b in zip(n, n[1:])), n


def outcome(job):
    """What does not depend on when it ran, nor on whether it is kept."""
    result = {k: v for k, v in job["result"].items() if k != "seconds" and not k.startswith("durable")}
    return job["status"], job["stop_reason"], job["steps_done"], job["hyperparameters"], result


@pytest.mark.parametrize("how", ENDS)
def test_every_kind_of_job(begin, how):
    """Finished ones are as they were; queued, running and paused ones go on, and a cancelled one does not."""
    with begin(SETTINGS) as s:
        ses, other = session(s), session(s, SHORT + "x")
        done = s.job(create(s, ses, {**QUICK, "seed": 1, "metadata": {"a": "é"}}))
        assert done["status"] == "succeeded" and done["durable"] is True
        done_events = s.events(done)
        running = create(s, ses, {**SLOW, "seed": 2})
        s.job(running, lambda j: j["steps_done"] >= 2)
        queued = create(s, ses, {**QUICK, "seed": 3})
        paused = create(s, other, {**QUICK, "seed": 4})
        act(s, paused, "pause")
        s.job(paused, lambda j: j["status"] == "paused")
        cancelled = create(s, ses, {**LONG_RUN, "seed": 5})
        act(s, cancelled, "cancel")
        last = s.events(running)[-1]["sequence_number"]
        s.again(how)
        assert s.get(f"{JOBS}/{done['id']}") == done
        assert s.events(done) == done_events
        assert s.job(cancelled)["status"] == "cancelled"
        assert s.get(f"{JOBS}/{paused['id']}")["status"] == "paused"
        listed = [j["id"] for j in s.get(f"{JOBS}?limit=100")["data"]]
        assert listed == [j["id"] for j in (cancelled, paused, queued, running, done)]
        ran = s.job(running)
        assert ran["status"] == "succeeded" and ran["started_at"] is not None
        assert ran["result"]["generation_after"] == 2 and s.job(queued)["result"]["generation_after"] == 3
        events = s.events(running)
        numbers_are_fine(events)
        again = [e for e in events if e["data"].get("reason") == "server_restarted"]
        assert len(again) == 1 and again[0]["data"]["status"] == "queued"
        # What came in the last second may be gone, but its numbers are not given again: a reader goes on from the last.
        assert again[0]["sequence_number"] > last
        assert [e["data"]["step"] for e in events if e["sequence_number"] > again[0]["sequence_number"]
                and e["type"] == "step"] == list(range(1, SLOW["steps"] + 1))
        act(s, paused, "resume")
        assert s.job(paused)["status"] == "succeeded"
        s_now = s.get(f"{SESSIONS}/{ses}")
        assert [(g["generation"], g["job_id"]) for g in s_now["generations"]] == [
            (3, queued["id"]), (2, running["id"]), (1, done["id"])]
        # The numbers of jobs go on.
        assert create(s, ses)["id"] == f"qttt_{ses[4:]}_5"
        # The same without any interruption.
        with harness.Server("--state-dir", "none", model=s.model) as calm:
            for seed, fields, was in ((1, QUICK, done), (2, SLOW, ran), (3, QUICK, s.job(queued))):
                ses2 = calm.post(SESSIONS, {"prompt": SHORT}).json()["id"]
                job = calm.post(f"{SESSIONS}/{ses2}/qttt/jobs", {**fields, "seed": seed}).json()
                while job["status"] not in ENDED:
                    job = calm.get(f"{JOBS}/{job['id']}").json()
                want, got = outcome(job), outcome(was)
                for r in (want, got):
                    r[-1].pop("generation_before"), r[-1].pop("generation_after")
                assert got == want
                assert job["durable"] is False


def test_twice_killed(begin):
    """A job that was restarted is restarted again; one event tells of each."""
    with begin() as s:
        job = create(s, session(s), LONG_RUN)
        for _ in range(2):
            s.job(job, lambda j: j["steps_done"] >= 1)
            s.again()
        assert s.get(f"{JOBS}/{job['id']}")["steps_done"] < 256
        events = s.events(job)
        numbers_are_fine(events)
        assert [e["data"].get("reason") for e in events].count("server_restarted") == 2
        act(s, job, "cancel")
        assert s.job(job)["status"] == "cancelled"


def test_the_training_of_a_request_is_cut(begin):
    with begin() as s:
        with s.server.connect() as c:
            c.send(harness.encode("POST", "/v1/chat/completions", {
                "messages": [{"role": "system", "content": SHORT}, {"role": "user", "content": "Go."}], "max_tokens": 4,
                "qttt": {"mode": "on", **LONG_RUN}}))
            job = s.wait_for(JOBS, lambda r: r["data"] and r["data"][0]["steps_done"] >= 1)["data"][0]
            s.again()
        now = s.get(f"{JOBS}/{job['id']}")
        assert now["status"] == "failed" and now["error"]["code"] == "server_restarted"
        assert s.events(job)[-1]["data"] == {"status": "failed", "reason": "server_restarted"}
        s.again()
        assert s.get(f"{JOBS}/{job['id']}") == now


def test_jobs_of_a_session_that_is_gone(begin):
    """Its jobs were cancelled with it; they tell the truth, whether the engine had heard of it or not."""
    with begin() as s:
        ses = session(s)
        jobs = [create(s, ses, LONG_RUN) for _ in range(2)]
        s.job(jobs[0], lambda j: j["steps_done"] >= 1)
        assert s.server.request("DELETE", f"{SESSIONS}/{ses}").status == 200
        s.again()
        for job in jobs:
            now = s.get(f"{JOBS}/{job['id']}")
            assert now["status"] == "cancelled" or now["error"]["code"] == "server_restarted", now


@pytest.mark.parametrize("how", ENDS)
def test_a_retry_over_a_restart(begin, how):
    """An answer that was given is given again; a request of which nothing came runs."""
    with begin(SETTINGS) as s:
        made = s.server.post(SESSIONS, {"prompt": SHORT}, headers={"Idempotency-Key": "s"})
        ses = made.json()["id"]
        path = f"{SESSIONS}/{ses}/qttt/jobs"
        first = s.server.post(path, QUICK, headers={"Idempotency-Key": "j"})
        assert first.status == 202
        assert s.server.post(path, {**QUICK, "steps": 0}, headers={"Idempotency-Key": "bad"}).status == 400
        s.job(first.json())
        s.again(how)
        again = s.server.post(path, QUICK, headers={"Idempotency-Key": "j"})
        assert (again.status, again.body) == (202, first.body)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]
        assert s.server.post(path, {**QUICK, "steps": 3}, headers={"Idempotency-Key": "j"}).status == 400
        assert len(s.get(path)["data"]) == 1
        again = s.server.post(SESSIONS, {"prompt": SHORT}, headers={"Idempotency-Key": "s"})
        assert (again.status, again.body) == (201, made.body) and len(s.get(SESSIONS)["data"]) == 1
        assert s.server.post(path, QUICK, headers={"Idempotency-Key": "bad"}).status == 202


def test_what_is_too_old_goes_from_disk_too(begin, folder):
    settings = {"jobs": {"max_finished": 2}, "idempotency": {"max_entries": 2}}
    with begin(settings) as s:
        ses = session(s)
        jobs = [s.job(create(s, ses, {**QUICK, "seed": i}, headers={"Idempotency-Key": str(i)})) for i in range(4)]
        # written behind what is told
        harness.until(lambda: (rows(folder, "job"), rows(folder, "idempotency")), lambda n: n == (2, 2), 10 * harness.TIME_FACTOR)
        s.again()
        assert [j["id"] for j in s.get(JOBS)["data"]] == [jobs[3]["id"], jobs[2]["id"]]
        assert not any(f"job={j['id']}" in s.server.log_text() for j in jobs)  # the log told of their ends before
        s.settings = {"jobs": {"retention_seconds": 1}, "idempotency": {"ttl_seconds": 1}}
        time.sleep(1.1)
        s.again()
        assert s.get(JOBS)["data"] == []
        s.end(signal.SIGTERM)
        assert rows(folder, "job") == 0 and rows(folder, "idempotency") == 0


def test_without_state(begin):
    with begin(SETTINGS, "none") as s:
        job = s.job(create(s, session(s)))
        assert job["status"] == "succeeded" and job["durable"] is False
        s.again()
        assert s.get(JOBS)["data"] == []


def test_writes_that_fail(begin, folder):
    """A request that cannot be written fails and changes nothing; the file is well, so the next one is."""
    with begin() as s, contextlib.closing(sqlite3.connect(f"{folder}/state.db", timeout=30)) as db:
        ses = session(s)
        path = f"{SESSIONS}/{ses}/qttt/jobs"

        def refused(where, body):
            db.execute("CREATE TRIGGER too_large BEFORE INSERT ON job BEGIN SELECT zeroblob(2000000000); END")
            r = s.server.post(where, body, headers={"Idempotency-Key": "k"})
            assert r.status == 500 and r.json()["error"]["code"] == "state_unavailable"
            assert "location" not in r.headers
            db.execute("DROP TRIGGER too_large")

        refused(path, LONG_RUN)
        assert s.get(JOBS)["data"] == []
        r = s.server.post(path, LONG_RUN, headers={"Idempotency-Key": "k"})
        assert r.status == 202 and "idempotent-replayed" not in r.headers
        job = r.json()
        s.job(job, lambda j: j["steps_done"] >= 1)
        refused(f"{JOBS}/{job['id']}/pause", None)
        steps = s.get(f"{JOBS}/{job['id']}")["steps_done"]
        s.job(job, lambda j: j["steps_done"] > steps + 2)
        act(s, job, "pause")
        s.job(job, lambda j: j["status"] == "paused")
        refused(f"{JOBS}/{job['id']}/resume", None)
        refused(f"{JOBS}/{job['id']}/cancel", None)
        time.sleep(0.2)
        assert s.get(f"{JOBS}/{job['id']}")["status"] == "paused"
        s.again()
        assert s.get(f"{JOBS}/{job['id']}")["status"] == "paused"
        act(s, job, "cancel")
        assert s.job(job)["status"] == "cancelled"


def test_degraded(begin, folder):
    """The table is gone, for a while: the server goes on in memory, and says so; then all is written."""
    with begin() as s:
        ses = session(s)
        path = f"{SESSIONS}/{ses}/qttt/jobs"
        with contextlib.closing(sqlite3.connect(f"{folder}/state.db", timeout=30)) as db:
            db.execute("ALTER TABLE job RENAME TO away")
            assert s.server.post(path, QUICK, headers={"Idempotency-Key": "k"}).status == 500
            r = s.server.post(path, QUICK, headers={"Idempotency-Key": "k"})
            assert r.status == 202 and "idempotent-replayed" not in r.headers
            job = s.job(r.json())
            assert job["status"] == "succeeded" and job["durable"] is False
            db.execute("ALTER TABLE away RENAME TO job")
        job = s.job(job, lambda j: j["durable"])
        s.again()
        assert s.get(f"{JOBS}/{job['id']}") == job
        assert s.server.post(path, QUICK, headers={"Idempotency-Key": "k"}).headers["idempotent-replayed"] == "true"
