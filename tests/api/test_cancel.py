"""A client that goes away frees the engine within a second, wherever its request is.

Ten rounds each of: queued, prefill, adaptation, decoding; streamed and not; closed, reset and half-closed.
"""
import socket
import struct

import pytest

import harness
from harness import chat, encode, words

PATH = "/v1/chat/completions"
LIMIT = 1.0 * harness.TIME_FACTOR
# Each takes long enough that it is still under way when the client leaves.
BODIES = {
    "prefill": lambda seed: chat(words(4800, seed=seed), max_tokens=2),
    "adapt": lambda seed: chat(words(900, seed=seed), max_tokens=2, qttt={
        "mode": "on", "steps": 256, "guard": False, "learning_rate": 1e-9, "span_tokens": 256, "seed": seed}),
    "decode": lambda seed: chat("Count.", max_tokens=4000, ignore_eos=True, seed=seed),
}


def leave(connection, how):
    if how == "half-close":
        connection.sock.shutdown(socket.SHUT_WR)
        return
    if how == "reset":
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def seed_of(how, streamed):
    """A text of its own for each way to leave, and of no other test's: the prefix cache would shorten its prefill."""
    return 50000 + 100 * ["close", "reset", "half-close"].index(how) + 50 * streamed


def steps(server):
    """Steps of adaptation so far, over all requests."""
    return sum(v for (name, _), v in server.metrics().items() if name == "qttt_steps_total")


def wait_for_stage(server, stage, before):
    server.wait_load(lambda running, waiting: running == 1, harness.LONG)
    if stage == "adapt":
        server.wait_load(lambda *_: steps(server) > before, harness.LONG)


def capital(server):
    r = server.post(PATH, chat("What is the capital of France?", max_tokens=20, temperature=0))
    return r.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def undisturbed(server):
    return capital(server)


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("stage", BODIES)
def test_leaving_while_running(server, undisturbed, stage, streamed, how):
    rounds = 4 if how == "close" else 3  # ten rounds a stage and mode, over the three ways to leave
    for i in range(rounds):
        before = steps(server)
        with server.connect() as c:
            c.send(encode("POST", PATH, {**BODIES[stage](seed_of(how, streamed) + i), "stream": streamed}))
            if streamed:
                assert c.head()[0] == 200
            wait_for_stage(server, stage, before)
            if streamed and stage == "decode":
                next(e for e in c.events() if e and e["choices"])
            leave(c, how)
            took = server.wait_idle(LIMIT)
        assert took < LIMIT
    # The server still answers, and from a clean state.
    assert capital(server) == undisturbed


@pytest.mark.parametrize("streamed", [True, False])
def test_leaving_while_queued(narrow, streamed):
    with narrow.connect() as running:
        running.send(encode("POST", PATH, {**BODIES["decode"](1), "stream": True}))
        assert running.head()[0] == 200
        for how in ("close", "reset", "half-close") * 3 + ("close",):
            with narrow.connect() as waiting:
                waiting.send(encode("POST", PATH, {**BODIES["decode"](2), "stream": streamed}))
                narrow.wait_load(lambda r, w: w == 1, harness.LONG)
                leave(waiting, how)
                narrow.wait_load(lambda r, w: w == 0, LIMIT)
            assert narrow.load() == (1, 0), "the running request must not notice"
    narrow.wait_idle(LIMIT)


def test_a_neighbour_is_not_disturbed(server):
    """While others come and go, an answer is what it is alone."""
    body = chat("Name three rivers.", max_tokens=40, temperature=0)
    alone = server.post(PATH, body).json()["choices"][0]["message"]["content"]
    with server.connect() as c:
        c.send(encode("POST", PATH, {**body, "stream": True}))
        assert c.head()[0] == 200
        for _ in range(5):
            with server.connect() as other:
                other.send(encode("POST", PATH, BODIES["decode"](3)))
        assert harness.text_of(list(c.events())) == alone


def test_leaving_before_the_body_is_complete():
    """Nothing is left of such requests: a server that drains does not wait for them."""
    s = harness.Server()
    for n in (10, 60, 150):
        with s.connect() as c:
            c.send(encode("POST", PATH, chat("x" * 200))[:n])
    assert s.get("/livez").status == 200
    assert s.stop(seconds=5 * harness.TIME_FACTOR) == 0


def test_stopping_in_mid_generation_leaves_the_server_to_others(server, client, name):
    """The openai client's own way to stop early."""
    with client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Count."}], stream=True,
                                        max_tokens=4000, extra_body={"ignore_eos": True}) as stream:
        for i, _ in enumerate(stream):
            if i == 5:
                break
    assert server.wait_idle(LIMIT) < LIMIT
