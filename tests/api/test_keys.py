"""API keys from a file: `qttt key`, who may do what, what one key made and no other sees, limits by key and what the openai client
makes of them, GET /v1/admin/state."""
import contextlib
import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time

import openai
import pytest

import conftest
import harness
import spec
from harness import chat

CHAT, SESSIONS, JOBS, STATE = "/v1/chat/completions", "/v1/sessions", "/v1/qttt/jobs", "/v1/admin/state"
SYSTEM = {"role": "system", "content": harness.words(400)}


def key(path, *args, status=0):
    """Runs `qttt key` and returns its lines, or with a status what it says of a failure."""
    r = subprocess.run([harness.BINARY, "key", *args, "--file", str(path)], capture_output=True, text=True, timeout=harness.LONG)
    assert r.returncode == status, r.stderr
    return r.stdout.split("\n")[:-1] if status == 0 else r.stderr


def auth(secret):
    return {"Authorization": f"Bearer {secret}"}


class Keys:
    """A file of keys and the secrets of their names."""

    def __init__(self, **limits):
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-keys-")
        self.path = pathlib.Path(self.folder.name) / "keys"
        self.secret = {name: key(self.path, "new", name, *flags)[0] for name, flags in limits.items()}

    def __getitem__(self, name):
        return auth(self.secret[name])


@contextlib.contextmanager
def keyed(settings=None, **limits):
    keys = Keys(**limits)
    settings = {**(settings or {}), "server": {**(settings or {}).get("server", {}), "api_keys_file": str(keys.path)}}
    with harness.Server(settings=settings) as s:
        yield s, keys


def error(response, status, kind, code):
    assert response.status == status, response.body
    e = response.json()["error"]
    assert (e["type"], e["code"]) == (kind, code), e
    return e


# ---- qttt key ----

def test_a_secret_that_cannot_be_printed_is_no_success(tmp_path):
    with open("/dev/full", "w") as full:
        r = subprocess.run([harness.BINARY, "key", "new", "alice", "--file", tmp_path / "keys"], stdout=full,
                           stderr=subprocess.PIPE, text=True, timeout=harness.LONG)
    assert r.returncode == 1 and "alice" in r.stderr and "--replace" in r.stderr


def test_the_command(tmp_path):
    path = tmp_path / "keys"
    (first,) = key(path, "new", "alice")
    assert re.fullmatch(r"sk-[0-9a-f]{12}-[0-9a-f]{64}", first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in path.read_text() and first[16:] not in path.read_text()
    (second,) = key(path, "new", "bob", "--role", "admin", "--requests-per-minute=60", "--bytes", "2MiB")
    text = "# kept by hand\n" + path.read_text()
    path.write_text(text)
    alice, bob = key(path, "list")
    assert alice.split() == ["alice", "user", first[:15] + "-..."]
    assert bob.split() == ["bob", "admin", second[:15] + "-...", "requests_per_minute=60", "bytes=2097152"]
    assert "already" in key(path, "new", "alice", status=2)
    assert path.read_text() == text
    (third,) = key(path, "new", "bob", "--replace", "--jobs", "3")
    assert third != second
    assert key(path, "list")[1].split() == ["bob", "admin", third[:15] + "-...", "requests_per_minute=60", "jobs=3", "bytes=2097152"]
    key(path, "remove", "alice")
    assert [line.split()[0] for line in key(path, "list")] == ["bob"]
    assert path.read_text().startswith("# kept by hand\n")
    assert "no key 'alice'" in key(path, "remove", "alice", status=2)
    assert "no key 'alice'" in key(path, "new", "alice", "--replace", status=2)
    key(path, "remove", "bob")
    assert key(path, "list") == []
    assert [p.name for p in tmp_path.iterdir()] == ["keys"]  # nothing temporary is left


@pytest.mark.parametrize("args", [["new"], ["new", "a", "b"], ["new", "a/b"], ["new", ".x"], ["list", "x"], ["what"], [],
                                  ["new", "x", "--role", "root"], ["new", "x", "--jobs", "0"], ["new", "x", "--jobs", "many"],
                                  ["remove", "x", "--jobs", "1"], ["new", "x", "--no-such-flag"]])
def test_the_command_refuses(tmp_path, args):
    assert key(tmp_path / "keys", *args, status=2).startswith("qttt: ")
    assert not (tmp_path / "keys").exists()


def test_the_command_does_not_touch_a_file_it_cannot_read(tmp_path):
    path = tmp_path / "keys"
    path.write_text("name=x\n")
    assert ":1: there is no role" in key(path, "new", "alice", status=2)
    assert path.read_text() == "name=x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, which root alone can become")
def test_a_file_whose_owner_cannot_be_kept_stays():
    """Else it would be the editor's alone, and the server could not read it any more."""
    nobody = 65534
    with tempfile.TemporaryDirectory(prefix="qttt-keys-") as folder:
        os.chmod(folder, 0o777)  # whoever may write there
        path = pathlib.Path(folder) / "keys"
        key(path, "new", "alice")
        path.chmod(0o644)
        before = path.read_text()
        command = pathlib.Path(folder) / "qttt"  # where another user may run it
        shutil.copy(harness.BINARY, command)
        for args in (["new", "bob"], ["remove", "alice"]):
            r = subprocess.run([command, "key", *args, "--file", path], capture_output=True, text=True, timeout=harness.LONG,
                               user=nobody, group=nobody, extra_groups=[])
            assert r.returncode == 1 and "owner cannot be kept" in r.stderr and r.stdout == "", r
        now = path.stat()
        assert (now.st_uid, stat.S_IMODE(now.st_mode), path.read_text()) == (0, 0o644, before)
        assert sorted(p.name for p in pathlib.Path(folder).iterdir()) == ["keys", "qttt"]
        key(path, "new", "bob")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640  # others never read it


def test_both_at_once(tmp_path):
    """Two that write at the same time lose nothing."""
    path = tmp_path / "keys"
    running = [subprocess.Popen([harness.BINARY, "key", "new", f"k{i}", "--file", str(path)], stdout=subprocess.DEVNULL)
               for i in range(8)]
    assert [p.wait(harness.LONG) for p in running] == [0] * 8
    assert sorted(line.split()[0] for line in key(path, "list")) == [f"k{i}" for i in range(8)]


def test_a_bad_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "keys"
    key(path, "new", "alice")
    path.write_text(path.read_text() + "name=bob role=boss\n")
    r = subprocess.run([harness.BINARY, "serve", "--model", harness.MODEL, "--port", "0", "--api-keys-file", str(path)],
                       capture_output=True, text=True, timeout=harness.LONG)
    assert r.returncode == 2 and "keys:2: role is 'boss'; expected user or admin" in r.stderr


# ---- who may do what ----

def test_roles():
    with keyed(alice=[], root=["--role", "admin"], settings={"server": {"open_metrics": False, "api_keys": ["plain"]}}) as (s, keys):
        assert s.get("/livez").status == 200
        for path in ("/v1/models", STATE, "/metrics"):
            for bad in (None, "Bearer x", f"Bearer {keys.secret['alice'][:-1]}0", f"Bearer {keys.secret['alice']}0",
                        f"Bearer {keys.secret['alice'][:16]}{keys.secret['root'][16:]}"):
                r = s.get(path, headers={"Authorization": bad})
                if bad is None or bad[7:] not in keys.secret.values():
                    error(r, 401, "authentication_error", "invalid_api_key")
                    assert r.headers["www-authenticate"].startswith("Bearer")
        for path in (STATE, "/metrics"):
            error(s.get(path, headers=keys["alice"]), 403, "permission_error", "admin_only")
            error(s.get(path, headers=auth("plain")), 403, "permission_error", "admin_only")
            assert s.get(path, headers=keys["root"]).status == 200
        for one in (keys["alice"], keys["root"], auth("plain")):
            assert s.get("/v1/models", headers=one).status == 200


def test_an_empty_file_lets_nobody_in(tmp_path):
    (tmp_path / "keys").write_text("# nobody\n")
    with harness.Server("--api-keys-file", str(tmp_path / "keys")) as s:
        error(s.get("/v1/models", headers=auth("x")), 401, "authentication_error", "invalid_api_key")


def test_no_key_sees_what_another_made():
    """Sessions, jobs, idempotency, diagnostics, and the cache of prompts."""
    with keyed(alice=[], bob=["--role", "admin"]) as (s, keys):
        once = {"Idempotency-Key": "same"}
        made = s.post(SESSIONS, {"messages": [SYSTEM]}, headers={**keys["alice"], **once, "x-session-id": "k"})
        assert made.status == 201
        again = s.post(SESSIONS, {"messages": [SYSTEM]}, headers={**keys["alice"], **once, "x-session-id": "k"})
        assert again.status == 201 and again.headers["idempotent-replayed"] == "true"
        path = f"{SESSIONS}/{made.json()['id']}"
        job = s.post(f"{path}/qttt/jobs", {"steps": 1, "guard": False}, headers=keys["alice"])
        assert job.status == 202
        job = f"{JOBS}/{job.json()['id']}"
        needle = {"messages": [{"role": "user", "content": "?"}], "needle": SYSTEM["content"][:40]}
        for method, url, body in (("GET", path, None), ("POST", path, {}), ("DELETE", path, None), ("POST", f"{path}/fork", {}),
                                  ("POST", f"{path}/extend", {"messages": [SYSTEM]}), ("DELETE", f"{path}/adapter", None),
                                  ("POST", f"{path}/diagnostics", needle), ("POST", f"{path}/qttt/jobs", {}),
                                  ("GET", f"{path}/qttt/jobs", None), ("GET", job, None), ("GET", f"{job}/events", None),
                                  ("POST", f"{job}/cancel", {}), ("POST", f"{job}/pause", {}), ("POST", f"{job}/resume", {})):
            assert s.request(method, url, body, headers=keys["bob"]).status == 404, (method, url)
        for url in (SESSIONS, JOBS):
            assert s.get(url, headers=keys["bob"]).json()["data"] == []
        other = s.post(SESSIONS, {"messages": [SYSTEM]}, headers={**keys["bob"], **once, "x-session-id": "k"})
        assert other.status == 201 and "idempotent-replayed" not in other.headers
        body = {"messages": [SYSTEM, {"role": "user", "content": "Go on."}], "max_tokens": 1}
        cached = {}
        for name in ("alice", "alice", "bob"):
            usage = s.post(CHAT, body, headers=keys[name]).json()["usage"]
            cached.setdefault(name, []).append(usage["prompt_tokens_details"]["cached_tokens"])
        assert cached["alice"][1] > 0
        state = {o["key"]: o for o in s.get(STATE, headers=keys["bob"]).json()["owners"]}
        assert state["alice"]["sessions"] == state["bob"]["sessions"] == 1
        assert s.get(path, headers=keys["alice"]).status == 200


def test_the_cache_tells_nothing_of_others():
    with keyed(alice=[], bob=[]) as (s, keys):
        body = {"messages": [SYSTEM, {"role": "user", "content": "Go on."}], "max_tokens": 1}
        tell = lambda name: s.post(CHAT, body, headers=keys[name]).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert tell("alice") == 0 and tell("alice") > 0 and tell("bob") == 0


# ---- limits ----

def client(s, secret, **kw):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key=secret, max_retries=0, timeout=harness.LONG, **kw)


def test_what_the_openai_client_makes_of_it():
    with keyed(alice=["--requests-per-minute", "2"], root=[]) as (s, keys):
        with client(s, keys.secret["alice"]) as c:
            start = time.monotonic()
            r = c.models.with_raw_response.list()
            assert r.headers["x-ratelimit-limit-requests"] == "2" and r.headers["x-ratelimit-remaining-requests"] == "1"
            assert re.fullmatch(r"(29|30)(\.\d+)?s", r.headers["x-ratelimit-reset-requests"])
            assert "x-ratelimit-limit-tokens" not in r.headers
            c.models.list()
            with pytest.raises(openai.RateLimitError) as e:
                c.models.list()
            assert e.value.code == "rate_limit_exceeded" and e.value.response.headers["x-ratelimit-remaining-requests"] == "0"
            passed = time.monotonic() - start
            assert 29 - passed <= int(e.value.response.headers["retry-after"]) <= 30  # of the limit's own rate
            with pytest.raises(openai.RateLimitError) as e:
                c.chat.completions.create(model="any", messages=[{"role": "user", "content": "x" * 100000}])
            assert e.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        with client(s, keys.secret["root"]) as c:
            assert "x-ratelimit-limit-requests" not in c.models.with_raw_response.list().headers
        with client(s, "sk-nobody") as c, pytest.raises(openai.AuthenticationError):
            c.models.list()


def test_the_client_waits_by_itself():
    """The retry of the SDK after Retry-After goes through."""
    with keyed(alice=["--requests-per-minute", "60"]) as (s, keys):
        with client(s, keys.secret["alice"]) as c:
            while (r := s.get("/v1/models", headers=keys["alice"])).status == 200:
                pass
            error(r, 429, "rate_limit_error", "rate_limit_exceeded")
            with c.with_options(max_retries=3) as patient:
                patient.models.list()


def test_tokens_a_minute():
    with keyed(alice=["--tokens-per-minute", "300"]) as (s, keys):
        start = time.monotonic()
        r = s.post(CHAT, chat(harness.words(60), max_tokens=50, ignore_eos=True), headers=keys["alice"])
        used = r.json()["usage"]
        assert used["completion_tokens"] == 50
        left = int(s.get("/v1/models", headers=keys["alice"]).headers["x-ratelimit-remaining-tokens"])
        back = (time.monotonic() - start) * 300 / 60  # has come back meanwhile
        assert 0 <= left - (300 - used["total_tokens"]) <= back + 1
        r = s.post(CHAT, chat(harness.words(200), max_tokens=5), headers=keys["alice"])
        e = error(r, 429, "rate_limit_error", "rate_limit_exceeded")
        assert r.headers["x-ratelimit-limit-tokens"] == "300"
        assert "tokens a minute" in e["message"] and 1 <= int(r.headers["retry-after"]) <= 60
        r = s.post(SESSIONS, {"messages": [SYSTEM]}, headers=keys["alice"])
        error(r, 429, "rate_limit_error", "rate_limit_exceeded")
        found = s.metrics()
        assert found["qttt_key_tokens_total", (("key", "alice"), ("kind", "prompt"))] == used["prompt_tokens"]
        assert found["qttt_key_tokens_total", (("key", "alice"), ("kind", "generated"))] == 50
        assert found["qttt_key_limited_total", (("key", "alice"),)] == 2


def test_concurrent_requests():
    with keyed(alice=["--concurrent", "1"], bob=[]) as (s, keys):
        with s.connect() as c:
            c.send(harness.encode("POST", CHAT, chat("Hi", max_tokens=7000, ignore_eos=True, stream=True), keys["alice"]))
            assert c.head()[0] == 200
            r = s.get("/v1/models", headers=keys["alice"])
            e = error(r, 429, "rate_limit_error", "rate_limit_exceeded")
            assert "in progress" in e["message"] and r.headers["retry-after"] == "1"
            assert s.get("/v1/models", headers=keys["bob"]).status == 200
        # its place is free again
        harness.until(lambda: s.get("/v1/models", headers=keys["alice"]).status, lambda status: status != 429)


def test_sessions_jobs_and_bytes():
    with keyed(alice=["--sessions", "2", "--jobs", "1"], bob=["--bytes", "40KiB"]) as (s, keys):
        made = [s.post(SESSIONS, {"messages": [SYSTEM]}, headers=keys["alice"]) for _ in range(3)]
        assert [r.status for r in made] == [201, 201, 429]
        e = error(made[2], 429, "rate_limit_error", "capacity")
        assert "may have 2 sessions" in e["message"] and "retry-after" in made[2].headers
        path = f"{SESSIONS}/{made[0].json()['id']}"
        error(s.post(f"{path}/fork", {}, headers=keys["alice"]), 429, "rate_limit_error", "capacity")
        many = {"steps": 200, "guard": False}
        first = s.post(f"{path}/qttt/jobs", many, headers=keys["alice"])
        assert first.status == 202
        e = error(s.post(f"{path}/qttt/jobs", many, headers=keys["alice"]), 429, "rate_limit_error", "capacity")
        assert "may have 1 jobs" in e["message"]
        s.post(f"{JOBS}/{first.json()['id']}/cancel", {}, headers=keys["alice"])
        assert s.request("DELETE", path, headers=keys["alice"]).status == 200
        assert s.post(SESSIONS, {"messages": [SYSTEM]}, headers=keys["alice"]).status == 201
        statuses = [s.post(SESSIONS, {"messages": [SYSTEM]}, headers=keys["bob"]).status for _ in range(12)]
        n = statuses.count(201)
        assert 0 < n < 12 and statuses == [201] * n + [429] * (12 - n)
        path = f"{SESSIONS}/{s.get(SESSIONS, headers=keys['bob']).json()['data'][0]['id']}"
        r = s.post(f"{path}/extend", {"messages": [SYSTEM, {**SYSTEM, "content": harness.words(3000)}]}, headers=keys["bob"])
        error(r, 429, "rate_limit_error", "capacity")


def test_idle_chats_give_way_to_new_ones():
    """A frontend that makes a session for each chat is not locked out by its old ones."""
    with keyed(alice=["--sessions", "2"], bob=[]) as (s, keys):
        assert s.post(CHAT, chat("Hi", max_tokens=1), headers={**keys["bob"], "x-session-id": "his"}).status == 200
        for i in range(4):
            r = s.post(CHAT, chat("Hi", max_tokens=1), headers={**keys["alice"], "x-session-id": f"chat{i}"})
            assert r.status == 200 and r.headers["x-session-id"] == f"chat{i}"
        found = [x["id"] for x in s.get(SESSIONS, headers=keys["alice"]).json()["data"]]
        assert sorted(found) == ["ses_chat2", "ses_chat3"]
        assert s.get(f"{SESSIONS}/ses_his", headers=keys["bob"]).status == 200  # never another key's


def test_every_endpoint_is_limited():
    """openapi.yaml promises 429 for all that need a key."""
    with keyed(alice=["--requests-per-minute", "1"], settings={"server": {"open_metrics": False}}) as (s, keys):
        assert s.get("/v1/models", headers=keys["alice"]).status == 200
        for path, method, status in sorted(set(spec.documented())):
            if status == 429:
                url = re.sub(r"\{\w+\}", "x", path)
                r = s.request(method.upper(), url, {} if method == "post" else None, headers=keys["alice"])
                if "admin" in path or path == "/metrics":
                    assert r.status == 403  # a user's; below as an admin
                else:
                    error(r, 429, "rate_limit_error", "rate_limit_exceeded")
    with keyed(root=["--requests-per-minute", "1", "--role", "admin"], settings={"server": {"open_metrics": False}}) as (s, keys):
        assert s.get(STATE, headers=keys["root"]).status == 200
        for path in (STATE, "/metrics"):
            error(s.get(path, headers=keys["root"]), 429, "rate_limit_error", "rate_limit_exceeded")


# ---- the state ----

def test_state_without_keys():
    with harness.Server(settings=conftest.NARROW) as s:
        state = s.get(STATE).json()
        assert state["phase"] == "ready" and state["requests"] == state["jobs"] == state["owners"] == []
        assert state["settings"]["limits.max_requests"] == "8" and "log.level" not in state["settings"]
        error(s.post(STATE, {}), 405, "invalid_request_error", "method_not_allowed")
        with s.connect() as runs, s.connect() as waits:
            for i, c in enumerate((runs, waits)):
                c.send(harness.encode("POST", CHAT, chat("Hi", max_tokens=7000, ignore_eos=True, stream=True),
                                      {"x-request-id": f"r{i}", "x-session-id": f"s{i}"}))
                assert c.head()[0] == 200
            s.wait_load(lambda running, waiting: (running, waiting) == (1, 1), harness.LONG)
            # the engine tells positions now and then
            found = harness.until(lambda: {r["id"]: r for r in s.get(STATE).json()["requests"]},
                                  lambda found: found["r1"]["queue"]["position"] is not None)
            assert found["r0"]["status"] == "running" and found["r0"]["queue"] is None
            assert found["r1"]["status"] == "queued" and found["r1"]["queue"]["position"] == 0
            assert found["r1"]["queue"]["reason"] and found["r1"]["session_id"] == "ses_s1"
            assert found["r0"]["prompt_tokens"] > 0 and found["r0"]["path"] == CHAT
        s.wait_idle()
        s.until(STATE, lambda state: not state["requests"])
        made = s.post(SESSIONS, {"messages": [SYSTEM]}).json()
        job = s.post(f"{SESSIONS}/{made['id']}/qttt/jobs", {"steps": 250, "guard": False}).json()
        state = s.get(STATE).json()
        assert [j["id"] for j in state["jobs"]] == [job["id"]] and state["jobs"][0]["session_id"] == made["id"]
        (owner,) = state["owners"]
        assert owner["key"] is None and owner["jobs"] == 1 and owner["sessions"] == state["sessions"]["count"]
        s.until(f"{SESSIONS}/{made['id']}", lambda session: session["status"] == "ready")
        disk = s.get(STATE).json()["disk"]
        assert disk is None or disk["degraded"] is None and disk["failures"] == 0
        state = s.get(STATE).json()
        (owner,) = state["owners"]
        assert owner["kv_bytes"] > 0 and owner["session_bytes"] == state["sessions"]["bytes"]
        s.post(f"{JOBS}/{job['id']}/cancel", {})


def test_secrets_are_not_shown():
    with keyed(root=["--role", "admin"], settings={"server": {"api_keys": ["very-secret-plain-key"]}}) as (s, keys):
        r = s.get(STATE, headers=keys["root"])
        assert b"very-secret" not in r.body and keys.secret["root"][16:].encode() not in r.body
        assert r.json()["settings"]["server.api_keys"] == "(not shown)"
        owners = {o["key"]: o for o in r.json()["owners"]}
        assert owners["root"]["role"] == "admin" and owners[".api_keys.0"]["role"] == "user"
        assert "very-secret" not in s.log_text()


def test_state_of_a_public_server_without_keys():
    """From another address than loopback it is refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the address that would be used
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but loopback")
    with harness.Server("--host", "0.0.0.0", "--allow-public") as s:
        with harness.Connection(s.port, host=address) as c:
            error(c.request("GET", STATE), 403, "permission_error", "admin_only")
        assert s.get(STATE).status == 200


class UnixConnection(harness.Connection):
    def __init__(self, path):
        self.sock, self.buffer = socket.socket(socket.AF_UNIX), b""
        self.sock.settimeout(harness.LONG)
        self.sock.connect(str(path))


def refuses_clients_of_proxies(ask):
    for name, value in (("X-Forwarded-For", "192.0.2.7"), ("x-forwarded-for", ""), ("Forwarded", "for=192.0.2.7")):
        error(ask("GET", STATE, headers={name: value}), 403, "permission_error", "admin_only")
    assert ask("GET", STATE).status == 200
    assert ask("GET", "/v1/models", headers={"X-Forwarded-For": "192.0.2.7"}).status == 200


def test_state_is_not_for_the_clients_of_a_proxy():
    """Without keys a proxy on the same machine is near, its clients need not be."""
    with harness.Server() as s:
        refuses_clients_of_proxies(s.request)


def test_state_is_not_for_the_clients_of_a_proxy_at_a_socket_with_a_path(tmp_path):
    path = tmp_path / "socket"
    with harness.Server("--unix-socket", str(path), wait=None) as s:
        harness.until(lambda: path.exists() or s.process.poll() is not None, told=s.log_text)
        with UnixConnection(path) as c:
            harness.until(lambda: c.request("GET", "/readyz").status == 200, told=s.log_text)
            refuses_clients_of_proxies(c.request)
