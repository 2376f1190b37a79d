"""test_load.py - the load generator itself: figures of hand-made records against what they must be, the curves, the client
against a server that says what it is told, users and arrivals that follow from their seed."""
import asyncio
import json
import math
import pathlib
import random
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import load_metrics  # noqa: E402 (its folder is known only now)
import load_run  # noqa: E402
import load_svg  # noqa: E402
import load_users  # noqa: E402
import soak  # noqa: E402
from load_client import Broken, Connection, Record  # noqa: E402

# --- figures -----------------------------------------------------------------------------------------------------------


def done(start, times, end=None, tokens=None, prompt=10, outcome="completed"):
    return Record(start=start, times=times, end=end if end is not None else times[-1], outcome=outcome, status=200,
                  prompt_tokens=prompt, output_tokens=len(times) if tokens is None else tokens)


def test_percentiles_are_linear_between_ranks():
    assert load_metrics.percentile([], 99) == 0
    assert load_metrics.percentile([7.0], 90) == 7
    assert load_metrics.percentile([0.0, 10.0], 90) == pytest.approx(9)
    assert load_metrics.percentile([1.0, 2.0, 3.0, 4.0], 50) == pytest.approx(2.5)
    assert load_metrics.percentile([float(i) for i in range(101)], 99) == pytest.approx(99)


def test_figures_of_three_answers():
    records = [done(100.0, [100.5, 100.7, 101.1]),  # ttft 0.5, tpot 0.3, e2el 1.1
               done(101.0, [101.1, 101.2], end=101.3),  # ttft 0.1, tpot 0.2, e2el 0.3
               done(102.0, [103.0])]  # one token: no tpot
    out = load_metrics.summary(records, 4.0)
    assert (out["completed"], out["failed"], out["aborted"]) == (3, 0, 0)
    assert out["mean_ttft_ms"] == pytest.approx(1000 * (0.5 + 0.1 + 1.0) / 3)
    assert out["median_ttft_ms"] == out["p50_ttft_ms"] == pytest.approx(500)
    assert out["p90_ttft_ms"] == pytest.approx(900)  # 0.5 + 0.8 * 0.5
    assert out["mean_tpot_ms"] == pytest.approx(250)
    assert out["std_tpot_ms"] == pytest.approx(50)
    assert out["mean_itl_ms"] == pytest.approx(1000 * (0.2 + 0.4 + 0.1) / 3)
    assert out["median_itl_ms"] == pytest.approx(200)
    assert out["p99_e2el_ms"] == pytest.approx(1000 * (1.0 + 0.98 * 0.1))
    assert out["total_input_tokens"] == 30 and out["total_output_tokens"] == 6
    assert out["request_throughput"] == pytest.approx(0.75)
    assert out["output_throughput"] == pytest.approx(1.5)
    assert out["total_token_throughput"] == pytest.approx(9)
    assert out["request_goodput"] is None


def test_tokens_come_from_usage_when_pieces_hold_several():
    out = load_metrics.summary([done(0.0, [1.0, 2.0], end=3.0, tokens=11)], 1.0)
    assert out["mean_tpot_ms"] == pytest.approx(200)  # (3 - 1) / 10
    assert out["mean_itl_ms"] == pytest.approx(1000)  # of pieces


def test_only_what_was_completed_counts():
    records = [done(0.0, [1.0, 2.0]), done(0.0, [9.0], outcome="aborted"), done(0.0, [], end=50.0, outcome="failed", tokens=0),
               Record(kind="job", outcome="completed", start=0.0, end=99.0)]
    records[2].error = "429 queue_full: the queue is full"
    out = load_metrics.summary(records, 10.0)
    assert (out["completed"], out["failed"], out["aborted"]) == (1, 1, 1)
    assert out["p99_ttft_ms"] == pytest.approx(1000) and out["total_output_tokens"] == 2
    assert out["failures"] == {"429 queue_full": 1}


def test_goodput_wants_every_limit_kept():
    records = [done(0.0, [0.1, 0.2]), done(0.0, [0.3, 0.4]), done(0.0, [0.1, 0.9]), done(0.0, [0.2])]
    both = load_metrics.parse_goodput(["ttft:200", "tpot:100"])
    assert [load_metrics.is_good(r, both) for r in records] == [True, False, False, True]
    assert load_metrics.summary(records, 2.0, both)["request_goodput"] == pytest.approx(1.0)
    assert load_metrics.summary(records, 2.0, {"e2el": 400.0})["request_goodput"] == pytest.approx(1.5)


@pytest.mark.parametrize("item", ["itl:5", "ttft", "ttft:0", "ttft:-1", "ttft:x"])
def test_goodput_refuses_what_is_no_limit(item):
    with pytest.raises(ValueError):
        load_metrics.parse_goodput([item])


def test_peaks():
    records = [done(0.0, [0.2, 0.9, 1.1], end=2.0), done(1.0, [1.5, 1.6], end=3.0), done(2.0, [2.5], end=2.6)]
    assert load_metrics.peak_concurrency(records) == 2  # the first ends when the third begins
    assert load_metrics.peak_tokens_per_second(records) == 3


def test_nothing_completed_is_no_error():
    out = load_metrics.summary([], 1.0, {"ttft": 1.0})
    assert out["completed"] == 0 and out["request_goodput"] == 0 and out["p99_itl_ms"] == 0


def test_knee_is_where_goodput_is_highest():
    points = [{"request_goodput": g, "completed": 9, "failed": 1} for g in (1.0, 2.0, 2.0, 1.5)]
    assert load_metrics.knee(points) == 1 and load_metrics.knee([]) is None
    assert [load_metrics.past_knee(points[:n]) for n in (1, 2, 3, 4)] == [False, False, False, True]
    assert load_metrics.past_knee([{"request_goodput": 3.0, "completed": 4, "failed": 5}])
    assert load_metrics.past_knee([{"request_goodput": 0.0, "completed": 4, "failed": 0}])


# --- curves ------------------------------------------------------------------------------------------------------------


def sweep():
    out = []
    for rate, ttft in ((0.5, 0.1), (1.0, 0.2), (2.0, 5.0)):
        p = load_metrics.summary([done(0.0, [ttft, ttft + 0.05]), done(1.0, [1.2 + ttft, 1.4 + ttft])], 2.0, {"ttft": 1000.0})
        out.append({**p, "request_rate": rate})
    return out


def test_curves_are_an_image_with_every_series():
    points = sweep()
    svg = load_svg.curves(points, load_metrics.knee(points), 'a "model" <with> & in its name')
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == space + "svg" and root.find(space + "title").text == 'a "model" <with> & in its name'
    lines = root.findall(space + "polyline")
    assert len(lines) == len(load_svg.LATENCIES) + len(load_svg.RATES)
    for one in lines:
        places = [tuple(map(float, p.split(","))) for p in one.get("points").split()]
        assert len(places) == len(points)
        assert all(0 <= x <= load_svg.WIDTH and 0 <= y <= load_svg.HEIGHT for x, y in places)
        assert [x for x, _ in places] == sorted(x for x, _ in places)
    first = [float(p.split(",")[1]) for p in lines[0].get("points").split()]
    assert first[0] > first[1] > first[2]  # a longer time is higher up
    assert len(root.findall(space + "circle")) == len(lines) * len(points)
    said = {t.text for t in root.findall(space + "text")}
    assert {"TTFT p99", "goodput", "requests/s offered", "highest goodput"} <= said


def test_curves_without_any_answer():
    points = [{**load_metrics.summary([], 1.0, {"ttft": 1.0}), "request_rate": 1.0}]
    ElementTree.fromstring(load_svg.curves(points, None, "nothing"))


def test_labels_do_not_cover_each_other():
    places = [y for y, *_ in load_svg.spread([(10, "a"), (11, "b"), (12, "c"), (300, "d")], 0, 50)]
    assert all(b - a >= 14 for a, b in zip(places, places[1:])) and places[-1] <= 50


# --- users and arrivals ------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_users():
    def plan(seed, index):
        u = load_users.User(index, seed, load_users.Shape(), "x", 1)
        return u.way, u.document, u.turns, u.trains, u.session_key
    assert plan(1, 5) == plan(1, 5)
    assert plan(1, 5) != plan(1, 6) and plan(1, 5) != plan(2, 5)


def test_users_are_as_their_shape_says():
    shape = load_users.Shape(document=(100, 1000), answer=(4, 9), turns=(2, 5), abort=0.5, shared=0.5, popular=3)
    users = [load_users.User(i, 3, shape, "x", 1) for i in range(400)]
    assert {u.way for u in users} == {"history", "header", "append"}
    words = [len(u.document.split()) for u in users]
    assert min(words) >= 70 and max(words) <= 900 and max(words) > 4 * min(words)
    assert all(2 <= len(u.turns) <= 5 and u.turns[0].think == 0 for u in users)
    turns = [t for u in users for t in u.turns]
    assert all(4 <= t.max_tokens <= 9 for t in turns)
    leavers = sum(t.leave_tokens is not None or t.leave_seconds is not None for t in turns)
    assert 0.4 < leavers / len(turns) < 0.6
    assert len({u.document for u in users}) < 300  # popular ones are shared


@pytest.mark.parametrize("burstiness, spread", [(1.0, 1.0), (0.25, 2.0)])
def test_arrivals_have_their_rate_and_their_spread(burstiness, spread):
    times = list(load_run.arrivals(5.0, burstiness, 4000.0, random.Random(1)))
    assert times == sorted(times) and times[-1] < 4000
    assert len(times) / 4000 == pytest.approx(5.0, rel=0.05)
    gaps = [b - a for a, b in zip(times, times[1:])]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    assert deviation / mean == pytest.approx(spread, rel=0.1)  # 1: exponential


def test_slope_is_that_of_the_line():
    assert soak.slope([(t, 1000 + 3 * t, 0, 0) for t in range(50)]) == pytest.approx(3)
    assert soak.slope([(0.0, 5, 0, 0)]) == 0


# --- the client --------------------------------------------------------------------------------------------------------


class Script:
    """A server on loopback that reads a request and then does what its script says: ("send", bytes), ("wait", s), ("close",)."""

    def __init__(self, *steps, status=b"200 OK", kind=b"text/event-stream"):
        self.steps, self.status, self.kind, self.requests = steps, status, kind, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                self.requests.append(json.loads(await reader.readexactly(length) or b"null"))
                writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Type: " + self.kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
                for what, *value in self.steps:
                    if what == "close":
                        writer.transport.abort()
                        return
                    if what == "wait":
                        await asyncio.sleep(value[0])
                    else:
                        writer.write(b"%x\r\n%s\r\n" % (len(value[0]), value[0]))
                        await writer.drain()
                writer.write(b"0\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


def event(text=None, **more):
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


END = (b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
       b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5}}}\n\n'
       b"data: [DONE]\n\n")


def ask(script, **kw):
    async def go():
        async with script:
            connection, record = Connection("127.0.0.1", script.port), Record()
            await connection.stream(record, "/x", {"q": 1}, **kw)
            connection.close()
            return record
    return asyncio.run(go())


def test_times_of_a_stream():
    first = event("a")
    record = ask(Script(("wait", 0.2), ("send", b": keep-alive\n\n"), ("send", event("")), ("send", first[:9]), ("wait", 0.1),
                        ("send", first[9:] + event("b")), ("wait", 0.3), ("send", event("c") + END)))
    assert (record.outcome, record.error, record.text, record.finish) == ("completed", "", "abc", "length")
    assert (record.prompt_tokens, record.output_tokens, record.cached_tokens) == (7, 3, 5)
    at = [t - record.start for t in record.times]
    assert len(at) == 3 and 0.29 <= at[0] == at[1] and at[2] - at[0] >= 0.29
    assert record.times[2] <= record.end < record.start + 6
    assert 290 <= 1e3 * load_metrics.ttft(record) < 3000


def test_a_connection_is_used_again():
    async def go():
        async with Script(("send", event("a") + END)) as script:
            connection, ports = Connection("127.0.0.1", script.port), set()
            for _ in range(3):
                record = await connection.stream(Record(), "/x", {})
                assert record.outcome == "completed"
                ports.add(connection.writer.get_extra_info("sockname"))
            connection.close()
            return len(ports), len(script.requests)
    assert asyncio.run(go()) == (1, 3)


def test_a_user_leaves_after_tokens_or_time():
    endless = [("send", event("a")), ("wait", 0.05)] * 200
    record = ask(Script(*endless), leave_tokens=3)
    assert (record.outcome, record.error) == ("aborted", "") and 3 <= len(record.times) < 100
    begin = time.perf_counter()
    record = ask(Script(("wait", 30.0)), leave_seconds=0.1)
    assert record.outcome == "aborted" and time.perf_counter() - begin < 5


def test_what_goes_wrong_is_told():
    refused = Script(("send", b'{"error":{"message":"full","type":"rate_limit_error","param":null,"code":"queue_full"}}'),
                     status=b"429 Too Many Requests", kind=b"application/json")
    record = ask(refused)
    assert (record.outcome, record.status, record.error) == ("failed", 429, "429 queue_full: full")
    record = ask(Script(("send", event("a")), ("close",)))
    assert record.outcome == "failed" and record.error.startswith("connection:") and len(record.times) == 1
    record = ask(Script(("send", event("a"))))
    assert (record.outcome, record.error) == ("failed", "stream: ended without [DONE]")
    record = ask(Script(("send", event("a")), ("send", b'data: {"error":{"message":"gone","type":"x","code":"late"}}\n\n')))
    assert (record.outcome, record.error) == ("failed", "stream: late: gone")
    record = ask(Script(("wait", 30.0)), timeout=0.1)
    assert record.outcome == "failed" and record.error.startswith("not finished")


def test_no_server_is_a_broken_connection():
    async def go():
        connection = Connection("127.0.0.1", 1)
        with pytest.raises(Broken):
            await connection.exchange("GET", "/")
        return (await connection.stream(Record(), "/x", {})).error
    assert asyncio.run(go()).startswith("connection:")


def test_a_run_keeps_its_rate_against_a_server_that_is_quick():
    """The generator alone: an arrival process of 50 turns a second, each answered at once."""
    async def go():
        async with Script(("send", event("a") + event("b") + END)) as script:
            shape = load_users.Shape(document=(20, 40), ways=(("history", 1),), abort=0.0, think=0.1)
            plan = load_run.Plan("127.0.0.1", script.port, shape, rate=50.0, seconds=2.0, grace=10, seed=1)
            return await load_run.Run(plan).run()
    outcome = asyncio.run(go())
    figures = load_metrics.summary(outcome.records, outcome.duration, {"ttft": 2000.0})
    expected = sum(1 for _ in load_run.arrivals(50.0, 1.0, 2.0, random.Random("1/arrivals/50.0")))
    assert figures["completed"] == expected and figures["failed"] == 0
    assert 60 < expected < 140 and figures["request_goodput"] <= figures["request_throughput"]
    assert max(len(u.done) for u in outcome.users) > 1  # users come back
    assert 0 < outcome.client["client_cpu_share"] <= 1.5
