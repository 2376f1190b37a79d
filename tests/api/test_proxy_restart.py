"""Both servers behind a proxy are restarted, one after the other, while users go on: nobody notices but by waiting."""
import signal
import tempfile
import threading
import time

import pytest

import harness
import proxies
from harness import chat, encode, words

CHAT = "/v1/chat/completions"
SESSIONS = "/v1/sessions"
SETTINGS = {"drain": {"delay_seconds": 1.5 * min(harness.TIME_FACTOR, 2), "timeout_seconds": harness.LONG}}


class Node:
    """A server that keeps its port and its state over restarts."""

    def __init__(self, model):
        self.model, self.state = model, tempfile.TemporaryDirectory(prefix="qttt-state-")
        self.port = harness.free_port()
        self.server = self.start()

    def start(self):
        return harness.Server("--threads", "1", "--state-dir", self.state.name, settings=SETTINGS, model=self.model,
                              port=self.port)

    def restart(self):
        assert self.server.stop(seconds=harness.LONG) == 0, self.server.last_log
        self.server = self.start()

    def close(self):
        if self.server.process.poll() is None:
            self.server.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        self.server.stop()  # the second signal cuts the drain's delay short
        self.state.cleanup()


def node_with(nodes, session):
    """The one node that has it."""
    found = [n for n in nodes if n.server.get(f"{SESSIONS}/{session}").status == 200]
    assert len(found) == 1, (session, [n.port for n in found])
    return found[0]


class Users:
    """Threads that ask until they are told to stop; what was not as it should be is in `wrong`."""

    def __init__(self, proxy):
        self.proxy, self.over = proxy, threading.Event()
        self.wrong, self.counts, self.sessions, self.tokens = [], {}, [], {}
        kinds = [self.talks, self.talks, self.talks_over_one_connection, self.makes_sessions, self.asks, self.asks,
                 self.streams]
        self.threads = [threading.Thread(target=self.run, args=(kind, i), daemon=True) for i, kind in enumerate(kinds)]
        for t in self.threads:
            t.start()

    def run(self, kind, number):
        steps = kind(number)
        while not self.over.is_set() and not self.wrong:
            try:
                next(steps)
            except Exception as e:  # whatever it is, the test has to hear of it
                self.wrong.append(f"{kind.__name__} {number}: {type(e).__name__}: {e}")
            self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1

    def all_at_it(self):
        """Each of the five kinds of users has done something more than three times."""
        done = list(self.counts.values())
        return len(done) == 5 and all(n > 3 for n in done)

    def end(self):
        self.over.set()
        for t in self.threads:
            t.join(harness.LONG)
            assert not t.is_alive(), "a request hangs"

    def expect(self, response, status, what):
        assert response.status == status, f"{what}: {response.status} {response.body[:300]}"
        return response.json()

    def create(self):
        made = self.expect(self.proxy.request("POST", SESSIONS, chat(words(80))), 201, "create")
        self.sessions.append(made["id"])
        return made["id"]

    def turn(self, ask, session):
        """An append that must find the session as its last answer has left it."""
        body = chat("And then?", append=True, max_tokens=3, ignore_eos=True, temperature=0)
        if session in self.tokens:
            body["expected_tokens"] = self.tokens[session]
        r = self.expect(ask("POST", CHAT, body, {"x-session-id": session.removeprefix("ses_")}), 200, "append")
        assert r["session"]["id"] == session and r["session"]["tokens"] > self.tokens.get(session, 80)
        self.tokens[session] = r["session"]["tokens"]

    def talks(self, number):
        session = self.create()
        while True:
            yield self.turn(self.proxy.request, session)

    def talks_over_one_connection(self, number):
        """A client's connection to the proxy outlives the node behind it."""
        session = self.create()
        with self.proxy.connect() as c:
            while True:
                yield self.turn(lambda *a: c.request(*a), session)

    def makes_sessions(self, number):
        while True:
            session = self.create()
            self.expect(self.proxy.request("GET", f"{SESSIONS}/{session}"), 200, "get")
            time.sleep(0.1)
            yield

    def asks(self, number):
        while True:
            yield self.expect(self.proxy.request("POST", CHAT, chat("Hi", max_tokens=5, ignore_eos=True)), 200, "ask")

    def streams(self, number):
        while True:
            with self.proxy.connect() as c:
                c.send(encode("POST", CHAT, chat("Hi", max_tokens=20, ignore_eos=True, stream=True)))
                assert c.head()[0] == 200
                assert list(c.events())[-1] == "[DONE]"
            yield


@pytest.mark.parametrize("kind", proxies.KINDS)
def test_a_rolling_restart_loses_nothing(kind, small_model):
    if why := proxies.missing(kind):
        pytest.skip(why)
    nodes = [Node(small_model), Node(small_model)]
    try:
        with proxies.Proxy(kind, [f"127.0.0.1:{n.port}" for n in nodes]) as proxy:
            users = Users(proxy)
            while len({node_with(nodes, session) for session in list(users.sessions)}) < 2:
                assert len(users.sessions) < 60 and not users.wrong, users.wrong
                time.sleep(0.05)
            for node in nodes:
                time.sleep(0.4)
                node.restart()
            time.sleep(0.4)
            deadline = time.monotonic() + harness.LONG  # on a busy machine some have hardly begun
            while not users.all_at_it() and not users.wrong and time.monotonic() < deadline:
                time.sleep(0.05)
            users.end()
            assert not users.wrong, (users.wrong, proxy.log_text()[-1500:])
            assert users.all_at_it(), users.counts
            for session in users.sessions:  # every one is where it was, and one more turn of the talks fits
                r = proxy.request("GET", f"{SESSIONS}/{session}", checked=True)
                assert r.status == 200 and r.json()["status"] != "failed", (session, r.body)
                node_with(nodes, session)
            for session in users.tokens:
                users.turn(proxy.request, session)
    finally:
        for node in nodes:
            node.close()
