"""kill -9 at random points under load, then a new start on the same state.dir: what was acknowledged is there, what was
deleted is gone, no file is corrupt, nothing piles up, and the answers are those of a server that was never killed.

QTTT_KILL_CYCLES and QTTT_KILL_SEED choose how often and which; the seed decides what the clients do and when they are cut,
not what they have reached by then."""
import contextlib
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import threading
import time
import uuid

import harness
import restart
import spec
from harness import ENDED, words
from restart import CHAT, JOBS, SESSIONS

CYCLES = int(os.environ.get("QTTT_KILL_CYCLES", "10" if harness.TIME_FACTOR == 1 else "4"))  # sanitizers are slow
SEED = int(os.environ.get("QTTT_KILL_SEED", "1"))
CLIENTS, MOST_SESSIONS = 4, 12
JOB = {"steps": 3, "span_tokens": 16, "guard": False}
ANSWER = {"max_tokens": 3, "temperature": 0, "ignore_eos": True}
SETTINGS = {"jobs": {"max_finished": 100000}, "idempotency": {"max_entries": 100000}, "sessions": {"ttl_seconds": 0},
            "qttt": {"max_queued_jobs": 1000}, "log": {"level": "warn"}}


class Account:
    """What one client knows of one session. Only its own client changes it."""

    def __init__(self, name, messages):
        self.id, self.messages = name, messages
        self.tokens = 0          # of the transcript, acknowledged
        self.deleting = False    # asked for
        self.jobs = {}           # id -> the last that was heard of it
        self.pending = None      # (what it is, path, body, headers) of a request that is not dealt with
        self.answered = False    # but its answer has come
        self.plain = True        # no adapter: a stateless request can say what it would


class Trap:
    """Kills the server, when it is armed, at the very moment at which a client has its answer: what was acknowledged is
    to be there, so the moment after it is the worst."""

    def __init__(self, process):
        self.process, self.armed, self.sprung = process, False, threading.Event()

    def touch(self):
        if self.armed:
            self.process.kill()
            self.sprung.set()


class Client(threading.Thread):
    """Does one thing after another until the server is gone; goes on where it was with the next server."""

    def __init__(self, rng):
        super().__init__(daemon=True)
        self.rng, self.accounts, self.deleted = rng, [], []
        self.pending = None  # a creation whose answer never came: (path, body, headers, messages, the parent's account)
        self.failure = None

    def begin(self, port, trap):
        successor = Client(self.rng)
        successor.accounts, successor.deleted, successor.pending = self.accounts, self.deleted, self.pending
        successor.port, successor.trap = port, trap
        successor.start()
        return successor

    def run(self):
        try:
            with harness.Connection(self.port) as self.connection:
                while True:
                    self.act()
        except OSError:
            pass  # killed
        except Exception as e:  # told by the test's own thread
            self.failure = e

    def ask(self, method, path, body=None, headers=None):
        self.connection.send(harness.encode(method, path, body, headers))
        r = self.connection.response(method)
        if method != "GET":
            self.trap.touch()
        spec.check(method, path, r)
        return r

    def act(self):
        if self.pending is not None:
            self.retry_creation()
        elif any(a.pending for a in self.accounts):
            self.retry(next(a for a in self.accounts if a.pending))
        elif not self.accounts or self.rng.random() < 0.2 and len(self.accounts) < MOST_SESSIONS / CLIENTS:
            self.create()
        else:
            account = self.rng.choice(self.accounts)
            what = self.rng.choices([self.append, self.train, self.steer, self.fork, self.delete], [6, 4, 2, 2, 1])[0]
            what(account)

    def key(self):
        return {"Idempotency-Key": str(uuid.UUID(int=self.rng.getrandbits(128)))}

    # ---- sessions ----

    def create(self):
        text = words(self.rng.randint(20, 160), seed=self.rng.randint(0, 5))
        messages = [{"role": "system", "content": text}]
        self.make(SESSIONS, {"messages": messages}, messages, None)

    def fork(self, account):
        if len(self.accounts) < 2 * MOST_SESSIONS / CLIENTS:
            self.make(f"{SESSIONS}/{account.id}/fork", {}, list(account.messages), account)

    def make(self, path, body, messages, parent):
        self.pending = (path, body, self.key(), messages, parent)
        self.retry_creation()

    def retry_creation(self):
        """Once, whether it is the first time or not."""
        path, body, headers, messages, parent = self.pending
        r = self.ask("POST", path, body, headers)
        assert r.status == 201, (path, r.status, r.body)
        account = Account(r.json()["id"], messages)
        assert account.id not in [a.id for a in self.accounts], "the same request made two"
        if parent is not None:
            account.tokens, account.plain = parent.tokens, parent.plain
        self.accounts.append(account)
        self.pending = None

    def delete(self, account):
        account.deleting = True
        r = self.ask("DELETE", f"{SESSIONS}/{account.id}")
        assert r.status == 200, r.body
        self.forget(account)

    def forget(self, account):
        self.accounts.remove(account)
        self.deleted.append(account)

    # ---- in a session: under a key, so that what was cut can be asked again ----

    def once(self, account, kind, path, body):
        account.pending, account.answered = (kind, path, body, self.key()), False
        self.retry(account)

    def retry(self, account):
        kind, path, body, headers = account.pending
        r = self.ask("POST", path, body, headers)
        kind(account, body, r)
        account.pending = None

    def append(self, account):
        body = {"session": account.id, "append": True, **ANSWER,
                "messages": [{"role": "user", "content": self.rng.choice(words(30).replace(".", "").split())}]}
        self.once(account, self.appended, CHAT, body)

    def appended(self, account, body, r):
        assert r.status == 200, r.body
        account.answered = True
        s = self.ask("GET", f"{SESSIONS}/{account.id}").json()
        assert s["transcript_tokens"] > account.tokens
        account.messages += [*body["messages"], r.json()["choices"][0]["message"]]
        account.tokens = s["transcript_tokens"]

    def train(self, account):
        if len(account.jobs) < 6:
            self.once(account, self.queued, f"{SESSIONS}/{account.id}/qttt/jobs", {**JOB, "seed": self.rng.randint(0, 99)})

    def queued(self, account, _, r):
        assert r.status == 202, r.body
        assert r.json()["id"] not in account.jobs
        account.jobs[r.json()["id"]] = r.json()
        account.plain = False

    def steer(self, account):
        """Looks at a job, stops it, holds it up, lets it go on."""
        if account.jobs:
            name = self.rng.choice(list(account.jobs))
            what = self.rng.choice(["", "", "", "/cancel", "/pause", "/resume", "/resume"])
            asked = account.jobs[name].pop("asked", None)  # while it is not known which of the two holds
            r = self.ask("POST" if what else "GET", f"{JOBS}/{name}{what}")
            assert r.status == 200, r.body
            account.jobs[name] = {**r.json(), "asked": what or asked}


# ---- what has to hold ----

def check_jobs(s, account):
    best = 0
    for name, known in account.jobs.items():
        asked = known.pop("asked", None)
        now = s.get(f"{JOBS}/{name}")
        if known["status"] in ENDED:
            assert now == known, "an end that was told is final"
        if asked == "/cancel":
            assert s.job(now)["status"] in ("cancelled", "succeeded")
        elif asked == "/pause":
            assert now["status"] in ("paused", *ENDED), now
        elif now["status"] == "failed":
            assert now["error"]["code"] == "server_restarted", now
        if now["result"] and now["result"]["kept"]:
            best = max(best, now["result"]["generation_after"])
        numbers = [e["sequence_number"] for e in s.events(now)]
        assert all(a < b for a, b in zip(numbers, numbers[1:])), numbers
        account.jobs[name] = now
    return best


def check_account(s, account):
    """False: its deletion was under way, and has happened."""
    r = s.server.get(f"{SESSIONS}/{account.id}")
    if r.status == 404 and account.deleting:
        return False
    assert r.status == 200, (account.id, r.status, r.body)
    now, appending = r.json(), account.pending is not None and account.pending[1] == CHAT
    lost = appending and account.answered and now["transcript_tokens"] == account.tokens
    assert now["transcript_tokens"] == account.tokens or appending and now["transcript_tokens"] > account.tokens, (
        now["transcript_tokens"], account.tokens, appending)
    assert not lost, "an append that was answered"
    account.deleting = False
    best = check_jobs(s, account)
    latest = s.get(f"{SESSIONS}/{account.id}")
    assert latest["generation"] >= best, (latest, best)
    trained = {g["job_id"]: g["generation"] for g in latest["generations"]}
    for name, job in account.jobs.items():
        if name in trained and job["status"] == "succeeded":
            assert job["result"]["generation_after"] == trained[name], "one generation, with its job"
    return True


def greedy(server, messages, **fields):
    r = server.post(CHAT, {"messages": messages, **ANSWER, "max_tokens": 8, **fields})
    assert r.status == 200, r.body
    return r.json()["choices"][0]["message"]["content"]


def check_answer(s, fresh, account):
    """Its next answer, in a fork that is thrown away, against a server that was never killed and hears it all anew."""
    question = {"role": "user", "content": "And then?"}
    fork = s.post(f"{SESSIONS}/{account.id}/fork", {}, 201)["id"]
    got = greedy(s.server, [question], session=fork, append=True)
    assert s.server.request("DELETE", f"{SESSIONS}/{fork}").status == 200
    system, *turns = account.messages
    again = fresh.post(SESSIONS, {"messages": [system]}).json()["id"]
    for asked, answered in zip(turns[::2], turns[1::2]):
        r = fresh.post(CHAT, {"session": again, "append": True, "messages": [asked], **ANSWER})
        assert r.json()["choices"][0]["message"] == answered
    assert got == greedy(fresh, [question], session=again, append=True)
    assert fresh.request("DELETE", f"{SESSIONS}/{again}").status == 200


def check_files(folder):
    r = subprocess.run([harness.BINARY, "state", "check", str(folder)], capture_output=True, text=True, check=False)
    assert r.returncode == 0, r.stdout + r.stderr
    with contextlib.closing(sqlite3.connect(f"{folder}/state.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not list(pathlib.Path(folder).glob("*.corrupt-*"))


def check_all(s, clients):
    for c in clients:
        for account in list(c.accounts):
            if not check_account(s, account):
                c.forget(account)
        for account in c.deleted:
            assert s.server.get(f"{SESSIONS}/{account.id}").status == 404
    known = {a.id for c in clients for a in c.accounts}
    cut = sum(c.pending is not None for c in clients)
    listed = {x["id"] for x in s.get(f"{SESSIONS}?limit=100")["data"]}
    assert known <= listed and len(listed - known) <= cut, (listed - known, cut)


def nothing_is_left(s, folder, clients):
    """When all sessions are gone, so is what was kept for them; what remains are the records of jobs."""
    for x in s.get(f"{SESSIONS}?limit=100")["data"]:
        assert s.server.request("DELETE", f"{SESSIONS}/{x['id']}").status == 200
    s.again(signal.SIGTERM)
    s.end(signal.SIGTERM)
    check_files(folder)
    with contextlib.closing(sqlite3.connect(f"{folder}/state.db")) as db:
        counts = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("session", "context", "job")}
    assert counts["session"] == counts["context"] == 0, counts
    assert counts["job"] <= sum(len(a.jobs) for c in clients for a in [*c.accounts, *c.deleted]) + len(clients) * CYCLES
    adapters = pathlib.Path(folder) / "adapters"
    assert not adapters.exists() or not list(adapters.iterdir())


def test_kill(small_model):
    rng = random.Random(SEED)
    print(f"seed {SEED}, {CYCLES} times")
    with restart.state_dir() as folder, harness.Server("--state-dir", "none", model=small_model) as fresh, \
            restart.Restarting(folder, SETTINGS, small_model) as s:
        clients = [Client(random.Random(rng.getrandbits(64))) for _ in range(CLIENTS)]
        for cycle in range(CYCLES):
            trap = Trap(s.server.process)
            clients = [c.begin(s.server.port, trap) for c in clients]
            time.sleep(rng.uniform(0.05, 0.8) * harness.TIME_FACTOR)
            trap.armed = rng.random() < 0.7
            trap.sprung.wait(0.3 * harness.TIME_FACTOR if trap.armed else 0)
            s.server.process.kill()
            s.end()
            for c in clients:
                c.join()
                assert c.failure is None, (cycle, c.failure)
            check_files(folder)
            s.server = s.begin()
            check_all(s, clients)
            plain = [a for c in clients for a in c.accounts if a.plain and a.pending is None and a.tokens > 0]
            if plain:
                check_answer(s, fresh, rng.choice(plain))
        assert any(a.jobs for c in clients for a in c.accounts), "there was a load"
        nothing_is_left(s, folder, clients)
