"""The shape of a stream, byte by byte: what wire.md calls Streams (docs/api.md, section Streams)."""
import json
import re
import time

import pytest

import harness
from harness import chat, text_of, words

EVENT = re.compile(rb"data: (\{[^\n]*\}|\[DONE\])\n\n")


def stream(server, path, body):
    """Headers and body of a streamed answer, all checked against openapi.yaml."""
    r = server.post(path, {**body, "stream": True})
    assert r.status == 200, r.body
    return r


def test_headers_of_a_stream(server):
    r = stream(server, "/v1/chat/completions", chat("Hi", max_tokens=2))
    assert r.headers["content-type"].split(";")[0] == "text/event-stream"
    assert r.headers["cache-control"] == "no-cache"
    assert r.headers["x-accel-buffering"] == "no"
    assert r.headers["x-request-id"]


def test_chat_stream_byte_by_byte(server, name):
    r = stream(server, "/v1/chat/completions", chat("Count from one to five.", max_tokens=12, temperature=0))
    # Nothing but data events: no ids, no names, no carriage returns, one line each.
    assert EVENT.sub(b"", r.body) == b"" or set(EVENT.sub(b"", r.body).split(b"\n\n")) <= {b": keep-alive", b""}
    assert r.body.endswith(b"data: [DONE]\n\n")
    assert r.body.count(b"[DONE]") == 1
    events = [e for e in r.events() if e is not None]
    chunks = events[:-1]
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["model"] == name
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert all(list(d) == ["content"] and d["content"] for d in deltas[1:-1])
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert reasons[:-1] == [None] * (len(chunks) - 1) and reasons[-1] in ("stop", "length")
    # Without include_usage there is no usage key, and without qttt no qttt key.
    assert not any("usage" in c or "qttt" in c or "progress" in c for c in chunks)


def test_completion_stream_byte_by_byte(server):
    r = stream(server, "/v1/completions", {"prompt": "One, two, three,", "max_tokens": 8, "temperature": 0})
    events = [e for e in r.events() if e is not None]
    assert events[-1] == "[DONE]"
    assert all(c["object"] == "text_completion" for c in events[:-1])
    assert len({(c["id"], c["created"], c["model"]) for c in events[:-1]}) == 1
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert not any("usage" in c for c in events[:-1])


@pytest.mark.parametrize("path,body", [
    ("/v1/chat/completions", chat("Say something about rivers.", max_tokens=24, temperature=0)),
    ("/v1/completions", {"prompt": "The river", "max_tokens": 24, "temperature": 0}),
])
def test_stream_and_plain_say_the_same(server, path, body):
    plain = server.post(path, body).json()
    events = stream(server, path, body).events()
    choice = plain["choices"][0]
    assert text_of(events) == (choice.get("text") if "text" in choice else choice["message"]["content"])
    last = [e for e in events if isinstance(e, dict) and e["choices"]][-1]
    assert last["choices"][0]["finish_reason"] == choice["finish_reason"]


@pytest.mark.parametrize("path,body", [
    ("/v1/chat/completions", chat("Hi", max_tokens=4, temperature=0)),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 4, "temperature": 0}),
])
def test_usage_chunk_only_when_asked(server, path, body):
    plain = server.post(path, body).json()
    events = stream(server, path, {**body, "stream_options": {"include_usage": True}}).events()
    chunks = [e for e in events if isinstance(e, dict)]
    assert chunks[-1]["choices"] == []
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert chunks[-1]["usage"][key] == plain["usage"][key]
    assert all("usage" in c and c["usage"] is None for c in chunks[:-1])


def test_progress_comes_before_the_first_token(server):
    body = chat(words(1200, seed=11) + "\nWhat is this?", max_tokens=3, temperature=0,
                stream_options={"include_progress": True})
    chunks = [e for e in stream(server, "/v1/chat/completions", body).events() if isinstance(e, dict)]
    progress = [c for c in chunks if "progress" in c]
    assert progress, "no progress chunk in a prefill of over 1,000 tokens"
    assert all(c["choices"] == [] for c in progress)
    first_token = next(i for i, c in enumerate(chunks) if c["choices"])
    assert all("progress" not in c for c in chunks[first_token:])
    prefill = [c["progress"] for c in progress if c["progress"]["phase"] == "prefill"]
    done = [p["done"] for p in prefill]
    assert done == sorted(done) and prefill[-1]["done"] == prefill[-1]["total"] > 1000
    assert "progress" not in json.dumps([c["choices"] for c in chunks])


def test_no_progress_unless_asked(server):
    r = stream(server, "/v1/chat/completions", chat(words(600, seed=12), max_tokens=2))
    assert b"progress" not in r.body


def test_headers_and_heartbeats_while_queued(narrow):
    """The second request waits behind a long one: its headers come at once, comments follow every second."""
    with narrow.connect() as first, narrow.connect() as second:
        first.send(harness.encode("POST", "/v1/chat/completions",
                                  chat(words(2500, seed=13), max_tokens=4000, ignore_eos=True, stream=True)))
        assert first.head()[0] == 200
        start = time.monotonic()
        second.send(harness.encode("POST", "/v1/chat/completions", chat("Hi", max_tokens=2, stream=True)))
        status, headers = second.head()
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert time.monotonic() - start < 1.0 * harness.TIME_FACTOR, "headers waited for the engine"
        second.sock.settimeout(5 * harness.TIME_FACTOR)
        pieces = second.events()
        beats = []
        for _ in range(2):
            assert next(pieces) is None, "expected a heartbeat first"
            beats.append(time.monotonic())
        assert 0.5 < beats[1] - beats[0] < 2.5 * harness.TIME_FACTOR
        first.close()
        rest = list(pieces)
        assert rest[-1] == "[DONE]" and text_of(rest) != ""


def test_bytes_that_are_no_utf8_become_replacement_characters(server, name):
    """A token that is half a code point, forced again and again, never breaks the stream's UTF-8."""
    ids = server.post("/tokenize", {"prompt": "\U00013000\U00013001", "add_special_tokens": False}).json()["tokens"]
    half = ids[0]
    assert server.post("/detokenize", {"tokens": [half]}).json()["prompt"].count("\ufffd") > 0
    body = {"prompt": "x", "max_tokens": 5, "temperature": 0, "logit_bias": {str(half): 100}}
    plain = server.post("/v1/completions", body).json()["choices"][0]["text"]
    assert plain and set(plain) == {"\ufffd"}
    r = stream(server, "/v1/completions", body)
    assert text_of(r.events()) == plain


@pytest.mark.real_model
def test_whole_code_points_only(server):
    """Emoji take several tokens each: no event may end inside one. Forced by letting the model repeat what it read."""
    r = stream(server, "/v1/completions", {"prompt": "\U0001f999 \U0001f999 \U0001f999 \U0001f999 \U0001f999 \U0001f999", "max_tokens": 12,
                                           "temperature": 0})
    events = [e for e in r.events() if isinstance(e, dict)]
    whole = server.post("/v1/completions", {"prompt": "\U0001f999 \U0001f999 \U0001f999 \U0001f999 \U0001f999 \U0001f999", "max_tokens": 12,
                                            "temperature": 0}).json()["choices"][0]["text"]
    assert text_of(events) == whole
    assert "\U0001f999" in whole, "the model did not repeat; choose another prompt"
    assert all("\ufffd" not in text_of([e]) for e in events[:-2])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("streamed", [False, True])
def test_stop_strings_end_the_text_before_the_match(server, path, streamed):
    prompt = "Write two sentences about the sea."
    body = {"max_tokens": 40, "temperature": 0, **(chat(prompt) if "chat" in path else {"prompt": prompt})}

    def answer(**more):
        if streamed:
            events = stream(server, path, {**body, **more}).events()
            last = [e for e in events if isinstance(e, dict) and e["choices"]][-1]
            return text_of(events), last["choices"][0]["finish_reason"]
        choice = server.post(path, {**body, **more}).json()["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"], choice["finish_reason"]

    whole, _ = answer()
    for start, length in ((len(whole) // 2, 1), (len(whole) // 2, 7), (len(whole) // 3, 14)):
        stop = whole[start:start + length]
        text, reason = answer(stop=["never said", stop])
        assert text == whole[:whole.find(stop)]
        assert reason == "stop"
    # A stop string that only begins is given out in the end.
    text, _ = answer(stop=whole[-3:] + "never")
    assert text == whole


def test_stop_ids_min_tokens_ignore_eos(server):
    body = {"prompt": "The cat sat on the", "max_tokens": 10, "temperature": 0, "logprobs": 0}
    base = server.post("/v1/completions", body).json()["choices"][0]
    third = server.post("/tokenize", {"prompt": base["text"], "add_special_tokens": False}).json()["tokens"][2]
    cut = server.post("/v1/completions", {**body, "stop_token_ids": [third]}).json()
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] <= 3
    later = server.post("/v1/completions", {**body, "stop_token_ids": [third], "min_tokens": 6}).json()
    assert later["usage"]["completion_tokens"] >= 6
    long = server.post("/v1/chat/completions", chat("Say yes.", max_tokens=60, ignore_eos=True)).json()
    assert long["usage"]["completion_tokens"] == 60 and long["choices"][0]["finish_reason"] == "length"
