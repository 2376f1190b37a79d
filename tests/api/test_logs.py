"""The log: one line for each request and each job, what stands in it and what never does, traces, a reader who stalls."""
import json
import os
import re
import signal
import subprocess
import time

import pytest

import harness
from harness import chat
from test_keys import keyed

CHAT, COMPLETIONS, SESSIONS, JOBS = "/v1/chat/completions", "/v1/completions", "/v1/sessions", "/v1/qttt/jobs"
JSON_LOG = {"log": {"format": "json"}}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def records(s):
    """The whole log; every line but what stands on stdout, and what clang's OpenMP says under a sanitizer, is an object."""
    others = ("listening on ", "Warning: please export TSAN_OPTIONS")
    return [json.loads(line) for line in s.log_lines() if not line.startswith(others)]


def record(s, **wanted):
    """The one record with these fields, as soon as it is there (a line follows its answer)."""
    found = harness.until(lambda: [r for r in records(s) if all(r.get(k) == v for k, v in wanted.items())],
                          told=lambda: (wanted, s.log_text()))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def logged():
    with keyed(settings=JSON_LOG, alice=[]) as (s, keys):
        yield s, keys["alice"]


def test_a_completion(logged):
    s, alice = logged
    r = s.post(CHAT, chat("Hi", max_tokens=3, ignore_eos=True), headers={**alice, "x-request-id": "c1", "x-session-id": "logs"})
    used, size = r.json()["usage"], len(r.body)
    line = record(s, request_id="c1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert {k: line[k] for k in ("level", "message", "key", "method", "path", "status", "outcome", "session", "model")} == {
        "level": "info", "message": "request", "key": "alice", "method": "POST", "path": CHAT, "status": 200, "outcome": "length",
        "session": "ses_logs", "model": r.json()["model"]}
    assert line["prompt_tokens"] == used["prompt_tokens"] and line["generated_tokens"] == 3
    assert line["cached_tokens"] == used["prompt_tokens_details"]["cached_tokens"] and line["trained_tokens"] == 0
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"]
    assert line["bytes_in"] == len(json.dumps(chat("Hi", max_tokens=3, ignore_eos=True))) and line["bytes_out"] == size
    assert "trace_id" not in line and "body" not in line


def test_a_stream(logged):
    s, alice = logged
    body = chat("Hi", max_tokens=4, ignore_eos=True, stream=True, n=2)
    r = s.post(CHAT, body, headers={**alice, "x-request-id": "c2"})
    line = record(s, request_id="c2")
    assert line["generated_tokens"] == 8 and line["outcome"] == "length" and line["bytes_out"] == len(r.body)
    assert "session" not in line


def test_who_leaves_and_what_fails(logged):
    s, alice = logged
    with s.connect() as c:
        c.send(harness.encode("POST", CHAT, chat("Hi", max_tokens=3000, ignore_eos=True, stream=True),
                              {**alice, "x-request-id": "gone"}))
        assert c.head()[0] == 200
        next(c.events())
    line = record(s, request_id="gone")
    assert line["outcome"] == "cancelled" and line["status"] == 200 and line["generated_tokens"] >= 1
    s.post(CHAT, {"messages": 1}, headers={**alice, "x-request-id": "bad"})
    assert record(s, request_id="bad")["outcome"] == "invalid_request_error"
    s.get("/v1/models", headers={"x-request-id": "nobody"})
    line = record(s, request_id="nobody")
    assert (line["status"], line["outcome"]) == (401, "invalid_api_key") and "key" not in line
    s.post(CHAT, chat("Hi", max_tokens=500, ignore_eos=True, timeout_seconds=0.001, stream=True),
           headers={**alice, "x-request-id": "late"})
    assert record(s, request_id="late")["outcome"] == "timeout"


def test_jobs(logged):
    s, alice = logged
    text = {"role": "system", "content": harness.words(500)}
    made = s.post(SESSIONS, {"messages": [text]}, headers={**alice, "x-request-id": "made"}).json()
    job = s.post(f"{SESSIONS}/{made['id']}/qttt/jobs", {"steps": 2, "span_tokens": 16, "guard": False}, headers=alice).json()
    line = record(s, message="job", job=job["id"])
    assert (line["key"], line["session"], line["status"], line["outcome"]) == ("alice", made["id"], "succeeded", "steps")
    assert line["steps"] == 2 and line["trained_tokens"] == 32 and line["kept"] == "true"
    assert 0 <= line["queue_ms"] <= line["total_ms"]
    second = s.post(f"{SESSIONS}/{made['id']}/qttt/jobs", {"steps": 250, "guard": False}, headers=alice).json()
    s.post(f"{JOBS}/{second['id']}/cancel", {}, headers=alice)
    assert record(s, message="job", job=second["id"])["status"] == "cancelled"
    body = chat("Who?", qttt={"mode": "on", "steps": 2, "span_tokens": 16, "guard": False, "context": {"tokens": 400}}, max_tokens=1)
    body["messages"].insert(0, text)
    r = s.post(CHAT, body, headers={**alice, "x-request-id": "adapted"}).json()
    assert record(s, request_id="adapted")["trained_tokens"] == 32
    assert record(s, message="job", job=r["qttt"]["job_id"])["trained_tokens"] == 32


def test_traces(logged):
    s, alice = logged
    given = f"00-{TRACE}-{SPAN}-01"
    r = s.get("/v1/models", headers={**alice, "traceparent": given, "x-request-id": "t1"})
    line = record(s, request_id="t1")
    assert (line["trace_id"], line["parent_id"]) == (TRACE, SPAN) and line["span_id"] not in (SPAN, "0" * 16)
    assert r.headers["traceparent"] == f"00-{TRACE}-{line['span_id']}-01"
    again = s.get("/v1/models", headers={**alice, "traceparent": given})
    assert again.headers["traceparent"] != r.headers["traceparent"]
    stream = s.post(CHAT, chat("Hi", max_tokens=1, stream=True), headers={**alice, "traceparent": given})
    assert stream.headers["traceparent"].startswith(f"00-{TRACE}-")
    for i, bad in enumerate(("", "00", given[:-1], given + "0", given.upper(), f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01")):
        r = s.get("/v1/models", headers={**alice, "traceparent": bad, "x-request-id": f"t-bad{i}"})
        assert r.status == 200 and "traceparent" not in r.headers
        assert "trace_id" not in record(s, request_id=f"t-bad{i}")


def test_nobody_forges_a_line(logged):
    s, alice = logged
    before = len(records(s))
    s.get("/v1/models/x%0d%0a%7b%22level%22%3a%22error%22%7d%1b%5b2J%ff%00z", headers={**alice, "x-request-id": "forged"})
    s.request("GET", "/nowhere%0a%e2%80%ae", headers={**alice, "x-request-id": "forged2"})
    assert record(s, request_id="forged")["path"].startswith("/v1/models/x\r\n{\"level\":\"error\"}\x1b[2J\ufffd")
    assert record(s, request_id="forged2")["path"] == "/nowhere\n\u202e"
    assert len(records(s)) == before + 2  # and every line was read as JSON
    raw = s.log_path.read_bytes()
    assert b"\x1b" not in raw and b"\r" not in raw and "\u202e".encode() not in raw


def test_prompts_only_when_asked_for(small_model):
    secret = "the launch code is 0000 " + "x" * 3000
    for flags in ((), ("--log-prompts",)):
        with harness.Server("--log-level", "debug", *flags, settings=JSON_LOG, model=small_model) as s:
            s.post(CHAT, chat(secret, max_tokens=1), headers={"x-request-id": "p"})
            s.post(SESSIONS, {"messages": [{"role": "user", "content": secret}]})
            line = record(s, request_id="p")
            whole = s.log_path.read_text()
        if flags:
            assert len(line["body"]) == 2000 and "launch code" in line["body"]
        else:
            assert "launch code" not in whole and "body" not in line


def test_text():
    with harness.Server(settings={"log": {"format": "text"}}) as s:
        s.get("/v1/models", headers={"x-request-id": "a=b"})
        s.get("/livez", headers={"x-request-id": "silent"})
        s.get("/v1/models/a%20b", headers={"x-request-id": "last"})
        harness.until(lambda: any("request_id=last" in line for line in s.log_lines()), told=s.log_text)
        lines = [line for line in s.log_lines() if " request request_id=" in line]
    assert len(lines) == 2
    assert re.fullmatch(r'\S+Z info  request request_id="a=b" method=GET path=/v1/models status=200 outcome=ok total_ms=[\d.]+ '
                        r'bytes_in=0 bytes_out=\d+', lines[0])
    assert 'path="/v1/models/a b" status=404 outcome=model_not_found' in lines[1]


def test_a_reader_who_stalls():
    """The log goes into a pipe that nobody reads: the server answers as before, and afterwards says what it has dropped."""
    reader, writer = os.pipe()
    s = harness.Server.__new__(harness.Server)
    s.port = harness.free_port()
    s.process = subprocess.Popen([harness.BINARY, "serve", "--port", str(s.port), "--model", harness.MODEL, "--state-dir", "none",
                                  "--log-format", "json"], stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    try:
        s.log_text = lambda: "(in a pipe)"
        s.wait_for("/readyz", 200)
        path = "/" + "y" * 180
        with s.connect() as c:
            slowest = 0
            for _ in range(6000):  # some 350 bytes each: 64 KiB of pipe and 1 MiB of buffer are not enough
                start = time.monotonic()
                assert c.request("GET", path).status == 404
                slowest = max(slowest, time.monotonic() - start)
        assert slowest < 2 * harness.TIME_FACTOR
        dropped = s.metrics()[("qttt_log_dropped_total", ())]
        assert 100 < dropped < 6000
        text = b""
        while b'"dropped":' not in text:
            text += os.read(reader, 65536)
        s.process.send_signal(signal.SIGTERM)
        while part := os.read(reader, 65536):
            text += part
        assert s.process.wait(30 * harness.TIME_FACTOR) == 0
        lines = [json.loads(line) for line in text.decode().splitlines()]
        told = sum(line.get("dropped", 0) for line in lines)
        assert told == dropped
        assert sum(line["message"] == "request" for line in lines) == 6000 - dropped
    finally:
        s.process.kill()
        s.process.wait()
        os.close(reader)
