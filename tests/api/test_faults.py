"""The n-th read, write, fsync, rename, mmap or malloc fails or comes short, over a short story of a session: at most one
request of it fails, with one clear error; what was acknowledged is there after a restart; the server goes on, and ends
with 0. tests/tools/fault_shim.c makes the faults. QTTT_FAULTS=all tries every n."""
import contextlib
import errno
import json
import mmap
import os
import pathlib
import random
import struct
import time

import pytest

import harness
from harness import Server, words

SHIM = os.environ.get("QTTT_FAULT_SHIM", str(harness.ROOT / "build/tests/tools/libfault_shim.so"))
ALL = os.environ.get("QTTT_FAULTS") == "all"
SEED = int(os.environ.get("QTTT_FAULT_SEED", "1"))
SESSIONS, CHAT, JOBS = "/v1/sessions", "/v1/chat/completions", "/v1/qttt/jobs"
CONTEXT = [{"role": "system", "content": words(90, seed=3)}]
KINDS = {"read": 1, "write": 2, "fsync": 3, "rename": 4, "mmap": 5, "malloc": 6}
# kind, errno (0 = short), how many n are tried in `make test`
CASES = [("write", errno.EIO, 6), ("write", errno.ENOSPC, 4), ("write", errno.EINTR, 4), ("write", 0, 4),
         ("fsync", errno.EIO, 6), ("rename", errno.EIO, 3),
         ("malloc", errno.ENOMEM, 30)]

pytestmark = [
    pytest.mark.skipif(not pathlib.Path(SHIM).exists(), reason="the shim of faults is not built"),
    pytest.mark.skipif(harness.TIME_FACTOR != 1, reason="a sanitizer has its own malloc, which the shim would replace"),
]


class Faults:
    """The control file of the shim, mapped by both."""
    FORMAT = "=IIIIII512s"

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "faults"
        self.prefix = str(pathlib.Path(folder) / "state").encode()
        self.path.write_bytes(struct.pack(self.FORMAT, 0, 0, 0, 0, 0, 0, self.prefix))
        with self.path.open("r+b") as f:
            self.map = mmap.mmap(f.fileno(), struct.calcsize(self.FORMAT))

    def arm(self, kind, nth, error, forever=False):
        struct.pack_into("=IIIII", self.map, 4, nth, error, int(forever), 0, 0)
        struct.pack_into("=I", self.map, 0, KINDS[kind])

    def disarm(self):
        """(calls that counted, calls that failed) since it was armed."""
        struct.pack_into("=I", self.map, 0, 0)
        return struct.unpack_from("=II", self.map, 16)


class Rig:
    """A server over the small model whose calls can fail, and what it has acknowledged."""

    def __init__(self, folder, model):
        self.folder, self.model = pathlib.Path(folder), model
        self.faults = Faults(folder)
        self.sessions, self.jobs, self.gone = {}, {}, set()
        self.server, self.lost, self.told = None, False, []
        self.start()

    def start(self):
        env = {"LD_PRELOAD": SHIM, "QTTT_FAULT": str(self.faults.path)}
        self.server = Server("--state-dir", str(self.folder / "state"), model=self.model, env=env)

    def stop(self):
        status = self.server.stop()
        assert status == 0, self.server.last_log

    def request(self, method, path, body=None, again=False):
        """The answer, or None when it failed as it may: one error object, or no connection when memory was missing."""
        try:
            with self.server.connect() as c:  # not checked against openapi.yaml: no memory is none of its statuses
                c.send(harness.encode(method, path, body, {"Connection": "close"}))
                r = c.response(method)
        except ConnectionError:
            assert self.server.process.poll() is None, self.server.log_text()
            self.lost = True
            return None
        if r.status < 400 or (again and method == "DELETE" and r.status == 404):
            return r  # what was deleted, although its answer was lost, is gone
        error = r.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"], error
        assert r.status in (409, 429, 500, 503), r.body
        self.told.append((method, path, r.status, r.body))
        return None

    def step(self, method, path, body=None):
        """Again when it failed: the fault is over. (answer, failures)"""
        r = self.request(method, path, body)
        if r is not None:
            return r, 0
        for _ in range(50):
            r = self.request(method, path, body, again=True)
            if r is not None:
                return r, 1
            time.sleep(0.1)
        raise AssertionError(f"{method} {path} goes on failing:\n{self.server.log_text()}")

    def story(self, seed):
        """Create, append, train, fork, delete. Failures of requests and of the job together; the answer's text."""
        failures = 0
        self.lost = False  # an answer, so that nobody knows whether its request was carried out
        r, n = self.step("POST", SESSIONS, {"messages": CONTEXT, "metadata": {"story": str(seed)}})
        failures += n
        ses = r.json()["id"]
        self.sessions[ses] = r.json()
        body = {"session": ses, "append": True, "messages": [{"role": "user", "content": "What is a lamp?"}],
                "max_tokens": 6, "temperature": 0}
        r, n = self.step("POST", CHAT, body)
        failures += n
        text = r.json()["choices"][0]["message"]["content"]
        tokens = r.json()["session"]["tokens"]
        r, n = self.step("POST", f"{SESSIONS}/{ses}/qttt/jobs",
                         {"steps": 1, "span_tokens": 32, "guard": False, "seed": seed, "adapter": "lora", "rank": 2})
        failures += n
        job = self.ended(r.json()["id"])
        failures += job["status"] != "succeeded"
        self.jobs[job["id"]] = job["status"]
        r, n = self.step("POST", f"{SESSIONS}/{ses}/fork", {})
        failures += n
        fork = r.json()["id"]
        r, n = self.step("DELETE", f"{SESSIONS}/{fork}")
        failures += n
        self.gone.add(fork)
        r, n = self.step("GET", f"{SESSIONS}/{ses}")
        failures += n
        now = r.json()
        assert now["context_tokens"] + now["transcript_tokens"] >= tokens, (now, tokens)
        self.sessions[ses] = now
        return failures, text

    def ended(self, job_id):
        return harness.until(lambda: self.request("GET", f"{JOBS}/{job_id}"),
                             lambda r: r is not None and r.json()["status"] in harness.ENDED, every=0.005).json()

    def durable(self, seconds=30):
        """Waits until what was only in memory is on disk again."""
        self.server.until("/readyz", lambda r: r["state"] == "durable", seconds)

    def check_restart(self):
        self.durable()
        self.stop()
        self.start()
        for ses, before in self.sessions.items():
            r = self.server.get(f"{SESSIONS}/{ses}")
            assert r.status == 200, (ses, r.body, self.server.log_text())
            for key in ("context_tokens", "transcript_tokens", "generation", "metadata"):
                assert r.json()[key] == before[key], (key, before, r.json())
        for job, status in self.jobs.items():
            r = self.server.get(f"{JOBS}/{job}")
            assert r.status == 200 and r.json()["status"] == status, (job, status, r.body)
        for ses in self.gone:
            assert self.server.get(f"{SESSIONS}/{ses}").status == 404
        for ses in list(self.sessions):
            assert self.server.request("DELETE", f"{SESSIONS}/{ses}").status == 200
        self.sessions, self.jobs, self.gone = {}, {}, set()


@pytest.fixture
def rig(tmp_path, small_model):
    r = Rig(tmp_path, small_model)
    yield r
    with contextlib.suppress(Exception):
        r.faults.disarm()
    if r.server.process.poll() is None:
        r.stop()
    else:
        raise AssertionError(f"the server died with {r.server.process.returncode}:\n{r.server.log_text()}")


def chosen(total, few, rng):
    numbers = list(range(1, total + 1))
    rng.shuffle(numbers)
    return numbers if ALL else sorted(numbers[:few])


@pytest.mark.parametrize("kind,error,few", CASES, ids=[f"{k}-{errno.errorcode.get(e, 'short')}" for k, e, _ in CASES])
def test_one_call_fails(rig, kind, error, few):
    rng = random.Random(f"{SEED} {kind} {error}")
    _, text = rig.story(0)  # what is made once is made
    rig.faults.arm(kind, 0, 0)
    rig.story(1)
    total, _ = rig.faults.disarm()
    assert total > 0
    tried = fired = 0
    for n in chosen(total, few, rng):
        rig.faults.arm(kind, n, error)
        failures, answer = rig.story(n + 1)
        fired += rig.faults.disarm()[1]
        assert failures <= 1, (n, rig.server.log_text())
        assert answer == text or rig.lost, (n, rig.told[-1:])
        assert rig.server.process.poll() is None
        tried += 1
        if tried % 10 == 0:
            rig.check_restart()
    rig.check_restart()
    print(f"{kind}: {tried} of {total} calls, {fired} failed")
    assert fired >= tried // 2 > 0 or tried < 2


@pytest.mark.parametrize("kind,error,few", [("read", errno.EIO, 4), ("read", 0, 3), ("mmap", errno.ENOMEM, 2)])
def test_one_call_fails_at_the_start(rig, kind, error, few):
    """It starts all the same; whatever it could not read, it has not thrown away: the next start finds it."""
    rig.story(0)
    rig.durable()
    rig.stop()
    rig.faults.arm(kind, 0, 0)
    rig.start()
    total, _ = rig.faults.disarm()
    assert total > 0
    for n in chosen(total, few, random.Random(f"{SEED} {kind} {error}")):
        rig.stop()
        rig.faults.arm(kind, n, error)
        rig.start()
        r = rig.request("POST", SESSIONS, {"messages": CONTEXT})
        rig.faults.disarm()
        assert r is not None or rig.server.get("/readyz").json()["state"] == "degraded"
        rig.stop()
        rig.start()
        for ses in rig.sessions:
            assert rig.server.get(f"{SESSIONS}/{ses}").status == 200, (n, rig.server.log_text())
    rig.check_restart()


def test_a_full_disk_and_back(rig):
    """From some write on none succeeds: degraded, said in /readyz and in the log, and everything is served on; then back."""
    _, text = rig.story(0)
    rig.faults.arm("write", 1, errno.ENOSPC, forever=True)
    # the requests that meet it fail; then the server goes on in memory
    r = harness.until(lambda: rig.request("POST", SESSIONS, {"messages": CONTEXT}), lambda r: r is not None, 60,
                      rig.server.log_text, 0.1)
    state = rig.server.get("/readyz")
    assert state.status == 200 and state.json()["state"] == "degraded" and state.json()["state_message"], state.body
    assert r.json()["durable"] is False
    assert "going on in memory only" in rig.server.log_text()
    failures, answer = rig.story(2)
    assert failures == 0 and answer == text
    rig.sessions[r.json()["id"]] = rig.server.get(f"{SESSIONS}/{r.json()['id']}").json()
    rig.faults.disarm()
    rig.durable()
    assert rig.server.get(f"{SESSIONS}/{r.json()['id']}").json()["durable"] is True
    time.sleep(6)  # adapters are tried again every five seconds
    rig.check_restart()


def test_a_folder_that_cannot_be_made(tmp_path, small_model):
    """A file is in the way of the whole folder (a test as root cannot take rights away)."""
    (tmp_path / "state").write_text("")
    with Server("--state-dir", str(tmp_path / "state"), model=small_model) as server:
        state = server.get("/readyz").json()
        assert state["state"] == "degraded" and state["state_message"]
        r = server.post(SESSIONS, {"messages": CONTEXT})
        assert r.status == 201 and r.json()["durable"] is False


def test_a_corrupt_database(tmp_path, small_model):
    with Server("--state-dir", str(tmp_path / "state"), model=small_model) as server:
        assert server.post(SESSIONS, {"messages": CONTEXT}).status == 201
    path = tmp_path / "state/state.db"
    raw = bytearray(path.read_bytes())
    raw[0:2000] = os.urandom(2000)
    path.write_bytes(raw)
    for name in ("state.db-wal", "state.db-shm"):
        (tmp_path / "state" / name).unlink(missing_ok=True)
    with Server("--state-dir", str(tmp_path / "state"), model=small_model) as server:
        assert "corrupt" in json.dumps(server.get("/readyz").json()) and "corrupt" in server.log_text()
        ses = server.post(SESSIONS, {"messages": CONTEXT})
        assert ses.status == 201 and ses.json()["durable"] is True
    with Server("--state-dir", str(tmp_path / "state"), model=small_model) as server:
        assert server.get(f"{SESSIONS}/{ses.json()['id']}").status == 200
    assert list((tmp_path / "state").glob("state.db.corrupt*"))


def test_a_second_server_is_refused(tmp_path, small_model):
    with Server("--state-dir", str(tmp_path / "state"), model=small_model):
        second = Server("--state-dir", str(tmp_path / "state"), model=small_model, wait="nothing")
        assert second.process.wait(harness.LONG) != 0
        second.stop()
        assert "state" in second.last_log
