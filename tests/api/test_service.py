"""Under a service manager: sd_notify over a socket of our own, the watchdog with an engine thread that really stands still, the
unit file, limits of a control group."""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

import harness
from harness import ROOT, Server, chat, encode, text_of, words

CHAT = "/v1/chat/completions"


class Manager:
    """A NOTIFY_SOCKET that remembers what came and when."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-notify-")
        self.path = os.path.join(self.folder.name, "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.sock.settimeout(0.05)
        self.got, self.closing = [], False  # (seconds, {key: value})
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while not self.closing:
            with contextlib.suppress(TimeoutError):
                data = self.sock.recv(4096).decode()
                self.got.append((time.monotonic(), dict(line.split("=", 1) for line in data.splitlines())))

    def times(self, key, value="1"):
        return [t for t, message in self.got if message.get(key) == value]

    def wait(self, key, value="1", seconds=harness.LONG):
        return harness.until(lambda: self.times(key, value), seconds=seconds, told=lambda: self.got, every=0.01)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.thread.join()
        self.sock.close()
        self.folder.cleanup()


def wait_log(s, text):
    """A thread of its own writes the log: a line comes soon, not at once."""
    harness.until(s.log_text, lambda log: text in log, 20 * harness.TIME_FACTOR)


# ---- readiness ----

def test_ready_is_said_when_requests_are_answered_and_stopping_at_the_signal():
    with Manager() as m:
        s = Server(env={"NOTIFY_SOCKET": m.path}, wait="none", model=harness.REAL_MODEL)
        s.wait_for("/livez", 200)
        while not m.times("READY"):
            # Not before /readyz would say so: whoever looks between the two looks again.
            ready = s.get("/readyz").status == 200
            assert not ready or m.wait("READY", seconds=5 * harness.TIME_FACTOR)
        assert s.get("/readyz").status == 200
        assert [message for _, message in m.got][-1]["STATUS"].startswith("serving ")
        assert not m.times("STOPPING") and len(m.got) == 1, "no WATCHDOG was asked for"
        assert s.stop() == 0
        assert m.wait("STOPPING", seconds=1) and len(m.got) == 2


def test_a_model_that_cannot_be_read_is_never_ready(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    with Manager() as m:
        r = subprocess.run([harness.BINARY, "serve", "--port", "0", "--model", str(bad)], capture_output=True,
                           env={**os.environ, "NOTIFY_SOCKET": m.path}, timeout=harness.LONG)
        assert r.returncode == 2 and m.got == []


def test_a_socket_that_is_not_there_is_no_reason_not_to_serve():
    with Server(env={"NOTIFY_SOCKET": "/nowhere/notify"}) as s:
        assert s.get("/readyz").status == 200
    with Server(env={"NOTIFY_SOCKET": "relative"}) as s:
        wait_log(s, "NOTIFY_SOCKET")


def test_a_reload_begins_and_ends():
    """As Type=notify and ExecReload want it; also when what is read is of no use."""
    with Manager() as m, Server(settings={"log": {"level": "info"}}, env={"NOTIFY_SOCKET": m.path}) as s:
        m.wait("READY")
        config = pathlib.Path(s.folder.name) / "qttt.yaml"
        for round, text in enumerate(("log:\n  level: debug\n", "log:\n  level: nonsense\n")):
            config.write_text(text)
            s.process.send_signal(signal.SIGHUP)
            harness.until(lambda: len(m.times("READY")) >= round + 2, told=lambda: m.got, every=0.01)
            begun = [message for _, message in m.got if message.get("RELOADING") == "1"][round]
            assert 0 < int(begun["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
            order = [key for _, message in m.got for key in ("RELOADING", "READY") if key in message]
            assert order == ["READY"] + ["RELOADING", "READY"] * (round + 1)
        wait_log(s, "reload: done")
        wait_log(s, "reload: failed")


# ---- the drain ----

def begin_stream(c, n):
    c.send(encode("POST", CHAT, chat("Count.", max_tokens=n, ignore_eos=True, stream=True, temperature=0)))
    assert c.head()[0] == 200
    events = c.events()
    return next(e for e in events if e and e["choices"]), events


def test_what_begins_during_the_delay_is_finished_and_idle_connections_do_not_hold():
    with Server(settings={"drain": {"delay_seconds": 1 + harness.TIME_FACTOR, "timeout_seconds": harness.LONG}}) as s:
        with s.connect() as c, s.connect() as idle, s.connect():
            assert idle.request("GET", "/livez").status == 200
            s.process.send_signal(signal.SIGTERM)
            s.wait_for("/readyz", 503)
            assert gauge(s, "qttt_draining") == 1 and gauge(s, "qttt_ready") == 0
            first, events = begin_stream(c, 100)
            rest = list(events)
            assert rest[-1] == "[DONE]" and text_of([first, *rest])
            assert s.process.wait(20 * harness.TIME_FACTOR) == 0  # two connections are still open


def test_a_second_signal_cuts_the_delay_short_too():
    with Server(settings={"drain": {"delay_seconds": 600, "timeout_seconds": 600}}) as s:
        with s.connect() as c:
            _, events = begin_stream(c, 7000)
            s.process.send_signal(signal.SIGTERM)
            s.wait_for("/readyz", 503)
            s.process.send_signal(signal.SIGTERM)
            last = list(events)[-1]
            assert last["error"]["code"] == "draining" and last["error"]["type"] == "service_unavailable"
        assert s.process.wait(10 * harness.TIME_FACTOR) == 0
        assert "second signal" in s.log_text() and "1 requests cut short" in s.log_text()


# ---- the watchdog ----

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class StoppedEngine:
    """Holds the engine's thread still, and no other: what a hanging device would do. For a `with`."""

    def __init__(self, server):
        self.server = server
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        tasks = pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()
        # Its row threads are called after it and came later.
        self.tid = min(int(t.name) for t in tasks if (t / "comm").read_text() == "qttt-engine\n")

    def __enter__(self):
        deadline = time.monotonic() + harness.LONG
        while True:
            if self.libc.ptrace(PTRACE_SEIZE, self.tid, None, None) != 0:
                pytest.skip(f"this machine forbids to trace a child: {os.strerror(ctypes.get_errno())}")
            assert self.libc.ptrace(PTRACE_INTERRUPT, self.tid, None, None) == 0
            os.waitpid(self.tid, WALL)
            # It may stand where it holds a lock that the loop needs: then elsewhere.
            with contextlib.suppress(OSError):
                with self.server.connect(timeout=harness.TIME_FACTOR) as c:
                    c.request("GET", "/metrics")
                    return self
            self.__exit__()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # until it has moved: the watchdog counts from there

    def __exit__(self, *_):
        assert self.libc.ptrace(PTRACE_DETACH, self.tid, None, None) == 0


def gauge(server, name):
    return next(v for (n, _), v in server.metrics().items() if n == name)


def start_answer(s, c):
    c.send(encode("POST", CHAT, chat("Count.", max_tokens=300, ignore_eos=True, stream=True, temperature=0)))
    assert c.head()[0] == 200
    events = c.events()
    first = next(e for e in events if e and e["choices"])
    return lambda: text_of([first, *events])


def start_job(s, c):
    ses = s.post("/v1/sessions", {"prompt": words(300, seed=911)}).json()["id"]
    job = s.post(f"/v1/sessions/{ses}/qttt/jobs", {"steps": 20, "span_tokens": 64, "guard": False}).json()["id"]

    s.job(job, lambda j: j["status"] != "queued")
    return lambda: s.job(job)["status"] == "succeeded"


@pytest.mark.parametrize("start", [start_answer, start_job], ids=["answer", "training"])
def test_an_engine_that_stands_still_is_noticed_and_forgiven(start):
    limit = max(1, harness.TIME_FACTOR / 3)
    with Manager() as m, Server(settings={"watchdog": {"seconds": limit}},
                                env={"NOTIFY_SOCKET": m.path, "WATCHDOG_USEC": str(int(limit * 500000))}) as s:
        with s.connect() as c:
            finish = start(s, c)
            with StoppedEngine(s):
                stopped = time.monotonic()
                s.wait_for("/livez", 503, 20 * limit)
                assert time.monotonic() - stopped > limit * 0.5
                assert gauge(s, "qttt_live") == 0 and gauge(s, "qttt_stalled_seconds") > limit
                assert s.get("/readyz").status == 200  # that is another question
                time.sleep(limit)  # at most one more sign of life was on its way
                assert not [t for t in m.times("WATCHDOG") if t > stopped + 1.6 * limit]
                assert gauge(s, "qttt_stalls_total") >= 1  # more where the machine itself stood still
            back = time.monotonic()
            s.wait_for("/livez", 200, 20 * limit)
            while not [t for t in m.times("WATCHDOG") if t > back]:
                assert time.monotonic() < back + harness.LONG
                time.sleep(0.02)
            wait_log(s, "watchdog: work is pending")
            wait_log(s, "watchdog: the engine moves again")
            assert finish()


def test_an_idle_engine_is_not_stuck_and_gives_signs_of_life():
    """Nor one whose only job pauses."""
    limit = max(2, harness.TIME_FACTOR / 3)  # a sign each half of it: a busy machine may be late by a second
    with Manager() as m, Server(settings={"watchdog": {"seconds": limit}},
                                env={"NOTIFY_SOCKET": m.path, "WATCHDOG_USEC": str(int(limit * 1000000))}) as s:
        ses = s.post("/v1/sessions", {"prompt": words(300, seed=912)}).json()["id"]
        job = s.post(f"/v1/sessions/{ses}/qttt/jobs", {"steps": 256, "span_tokens": 64, "guard": False}).json()["id"]
        s.post(f"/v1/qttt/jobs/{job}/pause", None)
        start = time.monotonic()
        while time.monotonic() - start < 2.5 * limit:
            assert s.get("/livez").status == 200
            time.sleep(0.05)
        signs = [t for t in m.times("WATCHDOG") if t > start]
        assert len(signs) >= 3 and max(b - a for a, b in zip(signs, signs[1:])) < limit
        assert s.get(f"/v1/qttt/jobs/{job}").json()["status"] == "paused" and gauge(s, "qttt_stalls_total") == 0


# ---- the state's disk ----

def test_readyz_says_whether_the_state_is_on_disk(tmp_path):
    """A folder that cannot be written: it serves, and says in /readyz, the log and a metric that nothing lasts."""
    with Server("--state-dir", "none") as s:
        assert s.get("/readyz").json()["state"] == "off" and gauge(s, "qttt_state_on") == 0
    with Server("--state-dir", str(tmp_path / "good")) as s:
        assert s.get("/readyz").json()["state"] == "durable" and gauge(s, "qttt_state_on") == 1
        assert gauge(s, "qttt_state_degraded") == 0 and "state" not in s.get("/livez").json()
    (tmp_path / "file").write_text("in the way")
    with Server("--state-dir", str(tmp_path / "file/below")) as s:
        assert s.get("/readyz").json()["state"] == "degraded" and gauge(s, "qttt_state_degraded") == 1
        wait_log(s, str(tmp_path / "file"))


# ---- the unit ----

@pytest.fixture
def unit(tmp_path):
    """The unit as meson wrote it, with a program that is there."""
    made = pathlib.Path(harness.BINARY).resolve().parents[1] / "config/qttt.service"
    text = made.read_text()
    lines = [f"ExecStart={harness.BINARY} serve" if x.startswith("ExecStart=") else x for x in text.splitlines()
             if not x.startswith("Documentation=")]
    path = tmp_path / "qttt.service"
    path.write_text("\n".join(lines) + "\n")
    return path


def systemd_analyze(*args):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    return subprocess.run(["systemd-analyze", *map(str, args)], capture_output=True, text=True, timeout=harness.LONG,
                          env={**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": ""})


def test_the_unit_is_valid(unit):
    r = systemd_analyze("verify", "--man=no", unit)
    mine = [line for line in r.stderr.splitlines() if "qttt" in line]
    if r.returncode != 0 and not mine:
        pytest.skip("systemd-analyze cannot work here: " + r.stderr.strip()[-200:])
    assert mine == [] and r.returncode == 0, r.stderr
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=perhaps"))
    assert "protect system" in systemd_analyze("verify", "--man=no", unit).stderr, "it would not have noticed"


def test_the_sandbox_is_tight(unit):
    """systemd's own score, 0 to 100: memory that is writable and executable and the network stay open."""
    r = systemd_analyze("security", "--offline=true", "--threshold=15", unit)
    if "Unknown command" in r.stderr or "unrecognized option" in r.stderr:
        pytest.skip("this systemd-analyze scores no files")
    assert r.returncode == 0, (r.stdout + r.stderr)[-3000:]
    text = unit.read_text()
    assert "MemoryDenyWriteExecute=yes" not in text, "oneDNN and PCRE2 compile at run time"
    for line in ("Type=notify", "WatchdogSec=30", "StateDirectory=qttt", "ExecReload=/bin/kill -HUP $MAINPID",
                 "ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateTmp=yes", "Environment=XDG_STATE_HOME=%S"):
        assert line in text.splitlines(), line
    stop = next(int(x.split("=")[1]) for x in text.splitlines() if x.startswith("TimeoutStopSec="))
    defaults = (ROOT / "config/qttt.yaml").read_text()
    assert "  timeout_seconds: 30\n" in defaults and stop > 30


def calls_of(name):
    """The system calls of a set like @system-service, sets within it included."""
    out = set()
    for line in systemd_analyze("syscall-filter", name).stdout.splitlines()[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            out |= calls_of(word) if word.startswith("@") else {word}
    return out


def test_the_units_filter_lets_every_system_call_through(unit, tmp_path):
    """Whatever a server calls from its start to its end, with a training, a session and a state folder."""
    if not shutil.which("strace"):
        pytest.skip("no strace here")
    if {"ASAN_OPTIONS", "TSAN_OPTIONS"} & set(os.environ):
        pytest.skip("a sanitizer makes system calls of its own")
    allowed = set()
    for line in unit.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            words_of = line.removeprefix("SystemCallFilter=").lstrip("~").split()
            named = set().union(*(calls_of(w) if w.startswith("@") else {w} for w in words_of))
            allowed = allowed - named if "=~" in line else allowed | named
    assert len(allowed) > 150 and "mount" not in allowed and "chown" not in allowed
    trace, port = tmp_path / "trace", harness.free_port()
    p = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, harness.BINARY, "serve", "--port", str(port), "--model", harness.MODEL,
                          "--state-dir", tmp_path / "state"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    s = Server.__new__(Server)
    s.port, s.process, s.log_text = port, p, lambda: p.stderr.read().decode()
    try:
        s.wait_for("/readyz", 200)
        body = chat("Hi", max_tokens=2, qttt={"mode": "on", "steps": 1, "span_tokens": 16, "guard": False, "context": {"tokens": 20}})
        assert s.post(CHAT, body).status == 200
        assert s.post("/v1/sessions", {"prompt": "Hi there"}).status == 201
    finally:
        child = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()[0]
        os.kill(int(child), signal.SIGTERM)
        p.communicate(timeout=harness.LONG)
    used = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed)", trace.read_text(errors="replace"), re.M))
    assert len(used) > 30 and "accept4" in used
    # SQLite gives its files to the database's owner, but only when it is root.
    assert used - allowed - {"fchown"} == set()


# ---- control groups ----

def test_limits_of_the_control_group_are_kept(tmp_path):
    """A server that sees a group with one processor and 80 MiB left takes one thread and at most half of what is left."""
    fake = tmp_path / "cgroup"
    fake.mkdir()
    for name, text in {"cgroup.procs": "1\n", "cpu.max": "60000 100000\n", "memory.max": f"{180 << 20}\n",
                       "memory.current": f"{100 << 20}\n", "memory.stat": "inactive_file 0\n"}.items():
        (fake / name).write_text(text)
    probe = subprocess.run(["unshare", "-rm", "mount", "--bind", fake, "/sys/fs/cgroup"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip("no mount namespace here: " + probe.stderr.strip())
    port = harness.free_port()
    log = tmp_path / "log"
    with open(log, "wb") as out:
        p = subprocess.Popen(["unshare", "-rm", "sh", "-c", f"mount --bind '{fake}' /sys/fs/cgroup && exec \"$@\"", "sh", harness.BINARY,
                              "serve", "--port", str(port), "--model", harness.MODEL, "--max-context", "65536"], stdout=out, stderr=out)
    try:
        harness.until(lambda: "ready: " in log.read_text() or p.poll() is not None, told=log.read_text)
        assert ", 1 threads," in log.read_text()
        s = Server.__new__(Server)
        s.port = port
        assert 30 << 20 < gauge(s, "qttt_kv_bytes") <= 40 << 20
        assert gauge(s, "qttt_free_memory_bytes") == 80 << 20
    finally:
        p.send_signal(signal.SIGTERM)
        assert p.wait(harness.LONG) == 0
