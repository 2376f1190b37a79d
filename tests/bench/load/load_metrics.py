"""load_metrics.py - what a run's records amount to, under the names and by the definitions of `vllm bench serve`.

TTFT: from sending a request to its first text. TPOT: (E2EL - TTFT) / (output tokens - 1), of answers with more than one
token. ITL: between two pieces of text of an answer, all answers together. E2EL: from sending to the last event. Percentiles
interpolate linearly, std is that of the population, milliseconds. request_goodput counts the completed requests that keep
every limit given. Not in vLLM: `aborted` (users who left as planned: neither completed nor failed) and `client_*`."""
import math

PERCENTILES = (50, 90, 95, 99)


def percentile(values, p):
    """Of sorted values, p in 0..100, linear between the two nearest ranks; 0 of nothing."""
    if not values:
        return 0.0
    at = (len(values) - 1) * p / 100
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def parse_goodput(items):
    """["ttft:500", "tpot:50"] as {"ttft": 500.0, ...}, in milliseconds."""
    limits = {}
    for item in items or []:
        name, _, value = item.partition(":")
        if name not in ("ttft", "tpot", "e2el"):
            raise ValueError(f"goodput: {name!r} is none of ttft, tpot, e2el")
        limits[name] = float(value)
        if not limits[name] > 0:
            raise ValueError(f"goodput: {item!r} is no limit in milliseconds")
    return limits


def ttft(record):
    return record.times[0] - record.start if record.times else record.end - record.start


def e2el(record):
    return record.end - record.start


def tpot(record):
    """None: an answer of one token has none."""
    return (e2el(record) - ttft(record)) / (record.output_tokens - 1) if record.output_tokens > 1 else None


def itls(record):
    return [b - a for a, b in zip(record.times, record.times[1:])]


def is_good(record, limits):
    """An answer of one token keeps any limit on TPOT."""
    got = {"ttft": ttft(record), "tpot": tpot(record) or 0.0, "e2el": e2el(record)}
    return all(1e3 * got[name] <= limit for name, limit in limits.items())


def peak_concurrency(records):
    """Requests under way at once, of half-open intervals: one that ends when another begins is not with it."""
    edges = sorted([(r.start, 1) for r in records] + [(r.end, -1) for r in records])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def peak_tokens_per_second(records):
    """Pieces of text in the fullest of the seconds counted from the first request."""
    if not records:
        return 0.0
    first, seconds = min(r.start for r in records), {}
    for r in records:
        for t in r.times:
            seconds[int(t - first)] = seconds.get(int(t - first), 0) + 1
    return float(max(seconds.values(), default=0))


def put_statistics(out, name, values):
    values = sorted(values)
    mean = sum(values) / len(values) if values else 0.0
    variance = sum((v - mean) ** 2 for v in values) / len(values) if values else 0.0
    out[f"mean_{name}_ms"] = 1e3 * mean
    out[f"median_{name}_ms"] = 1e3 * percentile(values, 50)
    out[f"std_{name}_ms"] = 1e3 * math.sqrt(variance)
    for p in PERCENTILES:
        out[f"p{p}_{name}_ms"] = 1e3 * percentile(values, p)


def summary(records, duration, limits=None, detailed=False):
    """The figures of the records of one run that took `duration` seconds. Jobs and sessions' own requests do not count."""
    chats = [r for r in records if r.kind == "chat"]
    done = [r for r in chats if r.outcome == "completed"]
    failed = [r for r in chats if r.outcome == "failed"]
    total_input, total_output = sum(r.prompt_tokens for r in done), sum(r.output_tokens for r in done)
    out = {
        "duration": duration,
        "completed": len(done),
        "failed": len(failed),
        "aborted": sum(r.outcome == "aborted" for r in chats),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "cached_input_tokens": sum(r.cached_tokens for r in done),
        "request_throughput": len(done) / duration,
        "request_goodput": sum(is_good(r, limits) for r in done) / duration if limits else None,
        "output_throughput": total_output / duration,
        "total_token_throughput": (total_input + total_output) / duration,
        "max_output_tokens_per_s": peak_tokens_per_second(done),
        "max_concurrent_requests": peak_concurrency(done),
    }
    put_statistics(out, "ttft", [ttft(r) for r in done])
    put_statistics(out, "tpot", [t for r in done if (t := tpot(r)) is not None])
    put_statistics(out, "itl", [gap for r in done for gap in itls(r)])
    put_statistics(out, "e2el", [e2el(r) for r in done])
    out["failures"] = count([r.error.split(":")[0] for r in failed])
    if detailed:
        out |= {"input_lens": [r.prompt_tokens for r in chats], "output_lens": [r.output_tokens for r in chats],
                "ttfts": [ttft(r) for r in chats], "itls": [itls(r) for r in chats],
                "latencies": [e2el(r) for r in chats], "start_times": [r.start for r in chats],
                "generated_texts": [r.text for r in chats], "errors": [r.error for r in chats]}
    return out


def count(names):
    out = {}
    for name in names:
        out[name] = out.get(name, 0) + 1
    return out


def knee(points):
    """The index of the point with the highest goodput (the first of equals); None without points."""
    best = None
    for i, p in enumerate(points):
        if best is None or p["request_goodput"] > points[best]["request_goodput"]:
            best = i
    return best


def past_knee(points, fall=0.8):
    """Whether the last point's goodput has fallen below `fall` of the best before it, or most of its requests failed."""
    last = points[-1]
    return (last["failed"] > last["completed"] or last["request_goodput"] == 0
            or last["request_goodput"] < fall * max(p["request_goodput"] for p in points))
