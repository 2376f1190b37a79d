"""SIGHUP: keys and settings are read again, all or nothing; requests in progress go on; the log says what changed, what needs a
restart and what was wrong."""
import json
import os
import pathlib
import signal

import openai

import harness
from harness import chat
from test_keys import Keys, auth, key

CHAT, SESSIONS, STATE = "/v1/chat/completions", "/v1/sessions", "/v1/admin/state"


class Reloaded(harness.Server):
    """A server whose settings file can be written again."""

    def __init__(self, *flags, settings, model=harness.MODEL):
        settings = {**settings, "log": {"format": "json", **settings.get("log", {})}}
        super().__init__(*flags, settings=settings, model=model)
        self.n_reloads = 0

    def write(self, settings):
        text = settings if isinstance(settings, str) else harness.yaml_text({"log": {"format": "json"}, **settings})
        (pathlib.Path(self.folder.name) / "qttt.yaml").write_text(text)

    def reload(self, settings=None):
        """Sends the signal and returns the records of its reload, the last first."""
        if settings is not None:
            self.write(settings)
        before = len(self.log_lines())
        self.process.send_signal(signal.SIGHUP)
        found = harness.until(lambda: [r for r in self.log_lines()[before:] if "reload: " in r],
                              lambda found: any("reload: done" in r or "reload: failed" in r for r in found),
                              told=self.log_text)
        return found[::-1]


def settings_of(s):
    return s.get(STATE).json()["settings"]


def test_keys_come_and_go(small_model):
    keys = Keys(alice=[], bob=["--role", "admin"])
    with Reloaded(settings={"server": {"api_keys_file": str(keys.path)}}, model=small_model) as s:
        made = s.post(SESSIONS, {"messages": [{"role": "user", "content": "Hello"}]}, headers=keys["alice"]).json()
        with s.connect() as c:
            long = int(1000 / min(harness.TIME_FACTOR, 4))  # enough for all that happens until it is asked whether it runs
            c.send(harness.encode("POST", CHAT, chat("Hi", max_tokens=long, ignore_eos=True, stream=True), keys["alice"]))
            assert c.head()[0] == 200
            events = c.events()
            next(events)
            key(keys.path, "remove", "alice")
            (carol,) = key(keys.path, "new", "carol")
            assert s.get("/v1/models", headers=keys["alice"]).status == 200  # not before the signal
            assert s.get("/v1/models", headers=auth(carol)).status == 401
            assert "keys: alice removed, carol added" in s.reload()[0]
            assert s.get("/v1/models", headers=keys["alice"]).status == 401
            assert s.get("/v1/models", headers=auth(carol)).status == 200
            assert s.get(STATE, headers=keys["bob"]).json()["requests"], "it has ended too early to show anything"
            assert list(events)[-1] == "[DONE]"  # what was in progress has finished
        (alice,) = key(keys.path, "new", "alice", "--requests-per-minute", "2")
        assert "keys: alice added" in s.reload()[0]
        assert s.get(f"{SESSIONS}/{made['id']}", headers=auth(carol)).status == 404
        statuses = [s.get(f"{SESSIONS}/{made['id']}", headers=auth(alice)).status for _ in range(3)]
        assert statuses == [200, 200, 429]  # what she made hangs on the name
        assert "keys: as before" in s.reload()[0]
        assert s.get("/v1/models", headers=auth(alice)).status == 429  # no reload fills a limit up
        (again,) = key(keys.path, "new", "alice", "--replace", "--requests-per-minute", "60000")
        assert "keys: alice has another secret" in s.reload()[0]
        assert s.get("/v1/models", headers=auth(alice)).status == 401
        assert s.get(f"{SESSIONS}/{made['id']}", headers=auth(again)).status == 200
        assert s.get(STATE, headers=keys["bob"]).status == 200


def test_a_fault_changes_nothing():
    keys = Keys(alice=[])
    good = {"server": {"api_keys_file": str(keys.path), "max_body": "1KiB"}}
    with Reloaded(settings=good) as s:
        big = chat("x" * 2000, max_tokens=1)
        text = keys.path.read_text()
        (bob,) = key(keys.path, "new", "bob")
        more = {"server": {**good["server"], "max_body": "1MiB"}}
        for settings, key_text, says in (
                (good, text + "name=x\n", ":2: there is no role"),
                (more, text + "name=x\n", ":2: there is no role"),
                ("server:\n  max_body: lots\n", None, "qttt.yaml:2:13: server.max_body is 'lots'"),
                ("server:\n  no_such: 1\n", None, "unknown key 'server.no_such'"),
                ("server: [", None, "qttt.yaml:"),
                ({"server": {**more["server"], "api_keys_file": str(keys.path) + ".none"}}, None, "No such file")):
            saved = keys.path.read_text()
            if key_text is not None:
                keys.path.write_text(key_text)
            last = json.loads(s.reload(settings)[0])
            assert last["level"] == "error" and "everything stays as it was" in last["message"] and says in last["message"], last
            keys.path.write_text(saved)
            assert s.get("/v1/models", headers=keys["alice"]).status == 200
            assert s.get("/v1/models", headers=auth(bob)).status == 401
            assert s.post(CHAT, big, headers=keys["alice"]).status == 413
        assert s.metrics()["qttt_reloads_total", (("outcome", "failed"),)] == 6
        found = s.reload(more)
        assert "done: 1 settings changed, 0 need a restart, keys: bob added" in found[0]
        assert s.post(CHAT, big, headers=keys["alice"]).status == 200
        assert s.metrics()["qttt_reloads_total", (("outcome", "succeeded"),)] == 1


def test_what_changes_and_what_waits():
    with Reloaded("--log-level", "info", settings={"server": {"cors_origins": ["http://a.example"]}}) as s:
        port, limit = s.port, settings_of(s).get("limits.max_requests")
        changed = {"server": {"cors_origins": ["http://b.example", "http://c.example"], "workers": 5},
                   "limits": {"max_requests": 3}, "drain": {"timeout_seconds": 7}, "log": {"format": "text", "level": "debug"},
                   "sessions": {"ttl_seconds": 1234}, "jobs": {"retention_seconds": 77}}
        found = s.reload(changed)
        assert "done: 5 settings changed, 2 need a restart" in found[0]
        text = "\n".join(found)
        for row in ('"server.cors_origins","from":"http://a.example","to":"http://b.example, http://c.example"',
                    '"drain.timeout_seconds","from":"30","to":"7"', '"sessions.ttl_seconds","from":"3600","to":"1234"',
                    '"log.format","from":"json","to":"text"'):
            assert '"reload: changed","setting":' + row in text, (row, text)
        for row in ('"server.workers","from":"2","to":"5"', '"limits.max_requests","from":"256","to":"3"'):
            assert '"reload: needs a restart","setting":' + row in text
        assert "log.level" not in text  # a flag wins over the file, as at the start
        assert " info  reload: done" in found[0]  # text from now on
        now = settings_of(s)
        assert now["drain.timeout_seconds"] == "7" and now.get("limits.max_requests") == limit and s.port == port
        made = s.post(SESSIONS, {"messages": [{"role": "user", "content": "Hello"}]}).json()
        assert made["ttl_seconds"] == 1234
        for origin, allowed in (("http://a.example", None), ("http://c.example", "http://c.example")):
            r = s.get("/v1/models", headers={"Origin": origin})
            assert r.headers.get("access-control-allow-origin") == allowed
        found = s.reload(changed)
        assert "done: 0 settings changed, 2 need a restart" in found[0]
        s.reload({"log": {"format": "json"}})
        assert "http://a.example" not in settings_of(s).get("server.cors_origins", "")
        assert s.get("/v1/models", headers={"Origin": "http://x"}).headers["access-control-allow-origin"] == "*"


def test_secrets_stay_out_of_the_log():
    with Reloaded(settings={"server": {"api_keys": ["first-secret"]}}) as s:
        found = s.reload({"server": {"api_keys": ["first-secret", "second-secret"]}})
        assert "api_keys.1 added" in found[0]
        assert s.get("/v1/models", headers=auth("second-secret")).status == 200
        assert "-secret" not in s.log_path.read_text()


def test_a_key_where_there_was_none(tmp_path):
    (secret,) = key(tmp_path / "keys", "new", "alice")
    with Reloaded(settings={}) as s:
        assert s.get("/v1/models").status == 200
        s.reload({"server": {"api_keys_file": str(tmp_path / "keys")}})
        assert s.get("/v1/models").status == 401
        with openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key=secret, max_retries=0) as c:
            assert c.models.list().data
        s.reload({})
        assert s.get("/v1/models").status == 200


def test_many_signals_at_once():
    """Signals that come while files are read lead to one more reading; nothing grows."""
    with Reloaded(settings={"server": {"cors_origins": ["http://a.example"]}}) as s:
        for i in range(300):
            if i % 10 == 0:
                s.write({"server": {"cors_origins": [f"http://{i}.example"]}})
            os.kill(s.process.pid, signal.SIGHUP)
            assert s.get("/v1/models").status == 200
        s.reload({"server": {"cors_origins": ["http://last.example"]}})
        last = "http://last.example"  # what has ended may be the reading before the last
        harness.until(lambda: s.get("/v1/models", headers={"Origin": last}).headers.get("access-control-allow-origin") == last,
                      told=s.log_text)
