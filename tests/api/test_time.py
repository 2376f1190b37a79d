"""Time limits of requests: timeout_seconds, server.request_timeout. docs/api.md, Time."""
import time

import pytest

import harness
from harness import Server, chat, encode, words

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SECONDS = 0.4 * harness.TIME_FACTOR
ENDLESS = {"max_tokens": 7000, "ignore_eos": True}


def assert_late(response, started, seconds=SECONDS):
    assert response.status == 408, response.body
    assert response.headers["x-should-retry"] == "false" and "retry-after" not in response.headers
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("timeout_error", "timeout")
    assert seconds <= time.monotonic() - started < seconds + 1.0 * harness.TIME_FACTOR


@pytest.mark.parametrize("path,body,seconds", [
    (CHAT, chat("Count.", **ENDLESS), SECONDS), (CHAT, chat("Count.", n=3, **ENDLESS), SECONDS),
    (CHAT, chat(words(4800, seed=61), max_tokens=1), 0.1),  # of any model, not to be read in that time
    (COMPLETIONS, {"prompt": ["One two", "Three four"], **ENDLESS}, SECONDS)])
def test_late_answers_are_408(server, path, body, seconds):
    """Decoding, several of them, in prefill: the jobs end as the answer does."""
    started = time.monotonic()
    assert_late(server.post(path, {**body, "timeout_seconds": seconds}), started, seconds)
    limit = 1.0 * harness.TIME_FACTOR
    assert server.wait_idle(limit) < limit


def test_late_streams_end_with_an_error_event(server):
    started = time.monotonic()
    r = server.post(CHAT, chat("Count.", stream=True, timeout_seconds=SECONDS, **ENDLESS))
    events = r.events()
    assert r.status == 200 and events[-1]["error"]["code"] == "timeout" and "[DONE]" not in events
    assert any(e["choices"] for e in events if e and "choices" in e), "what came in time was sent"
    assert time.monotonic() - started < SECONDS + 1.0 * harness.TIME_FACTOR


def test_waiting_counts(narrow):
    with narrow.connect() as c:
        c.send(encode("POST", CHAT, chat("Count.", stream=True, **ENDLESS)))
        assert c.head()[0] == 200
        narrow.wait_load(lambda r, w: (r, w) == (1, 0), harness.LONG)
        started = time.monotonic()
        assert_late(narrow.post(CHAT, chat("Hi", max_tokens=1, timeout_seconds=SECONDS)), started)
        assert narrow.load() == (1, 0)


def test_in_time_is_as_without(server):
    body = chat("Count.", max_tokens=5, temperature=0)
    assert server.post(CHAT, {**body, "timeout_seconds": 100 * harness.TIME_FACTOR}).json()["choices"] == \
        server.post(CHAT, body).json()["choices"]


def test_the_operators_bound():
    """It holds for requests without one, and none may ask for more."""
    with Server(settings={"server": {"request_timeout": SECONDS}}) as s:
        started = time.monotonic()
        assert_late(s.post(CHAT, chat("Count.", **ENDLESS)), started)
        r = s.post(CHAT, chat("Hi", max_tokens=1, timeout_seconds=SECONDS * 2))
        assert r.status == 400 and r.json()["error"]["param"] == "timeout_seconds"
        started = time.monotonic()
        assert_late(s.post(CHAT, chat("Count.", timeout_seconds=SECONDS / 2, **ENDLESS)), started, SECONDS / 2)
