#!/usr/bin/env python3
"""load.py - users with long documents against a server: latency, throughput and goodput over the request rate.

load.py --binary build/server/qttt --model FILE [options] [-- flags of qttt serve]    starts a server of its own
load.py --target http://127.0.0.1:8080 [options]                                      uses one that runs

A sweep multiplies the rate by --factor until goodput falls below 0.8 of the best, the knee; --request-rate
and --max-concurrency are a single run. Names and definitions of the figures are those of `vllm bench serve`
(load_metrics.py); what users do is in load_users.py. Standard library only; the same seed makes the same users."""
import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
import urllib.parse

import load_metrics
import load_run
import load_svg
from load_server import Server, fetch, is_idle, metrics
from load_users import Shape

COLUMNS = [("rate", "request_rate", 6, 2), ("done", "completed", 5, 0), ("fail", "failed", 5, 0), ("left", "aborted", 5, 0),
           ("req/s", "request_throughput", 6, 2), ("good/s", "request_goodput", 7, 2), ("tok/s", "output_throughput", 7, 1),
           ("TTFT p50", "median_ttft_ms", 9, 0), ("p99", "p99_ttft_ms", 7, 0), ("TPOT p50", "median_tpot_ms", 9, 1),
           ("p99", "p99_tpot_ms", 7, 1), ("ITL p99", "p99_itl_ms", 8, 1), ("E2EL p50", "median_e2el_ms", 9, 0),
           ("p99", "p99_e2el_ms", 7, 0), ("cached", "cached", 7, 2), ("client", "client_cpu_share", 7, 2)]


def row(point):
    cells = []
    for _, name, width, digits in COLUMNS:
        value = point.get(name)
        cells.append(f"{value:{width}.{digits}f}" if isinstance(value, (int, float)) else f"{value or '-':>{width}}")
    return " ".join(cells)


def wait_idle(host, port, seconds=120):
    """Until nothing runs and nothing waits, of what earlier runs have left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_idle(metrics(host, port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"load: the server is not idle after {seconds} s")


def measure(args, host, port, shape, server, rate=None, concurrency=None):
    """One run as a dictionary under vllm bench serve's names."""
    before = metrics(host, port)
    cpu = server.cpu_seconds() if server else 0
    plan = load_run.Plan(host, port, shape, rate=rate, concurrency=concurrency, burstiness=args.burstiness,
                         seconds=args.seconds, warmup=args.warmup, grace=args.grace or args.seconds, seed=args.seed,
                         key=args.api_key)
    began = time.monotonic()
    outcome = load_run.run(plan)
    wall = time.monotonic() - began
    out = {"date": time.strftime("%Y%m%d-%H%M%S"), "endpoint_type": "openai-chat", "backend": "openai-chat",
           "label": args.label, "model_id": args.model_id, "tokenizer_id": args.model_id,
           "request_rate": rate if rate is not None else "inf", "burstiness": args.burstiness,
           "max_concurrency": concurrency, "seed": args.seed}
    out |= load_metrics.summary(outcome.records, outcome.duration, args.goodput, args.save_detailed)
    out["num_prompts"] = sum(r.kind == "chat" for r in outcome.records)
    out["cached"] = out["cached_input_tokens"] / max(1, out["total_input_tokens"])
    jobs = [r for r in outcome.all_records if r.kind == "job"]
    out["jobs"] = load_metrics.count([r.outcome for r in jobs])
    out |= outcome.client
    if server:
        out["server_cpu_share"] = (server.cpu_seconds() - cpu) / wall
        out["server_resident_bytes"] = server.resident()
    after = metrics(host, port)
    out["preemptions"] = after["qttt_preemptions_total"] - before["qttt_preemptions_total"]
    for r in [r for r in outcome.records if r.outcome == "failed"][:3]:
        print(f"  failed: {r.kind} of user {r.user}: {r.error}", file=sys.stderr)
    wait_idle(host, port)
    return out


def rates_of(args):
    """The rates of a sweep: those given, or ever larger ones."""
    if args.rates:
        yield from args.rates
        return
    rate = args.start
    for _ in range(args.points):
        yield rate
        rate *= args.factor


def sweep(args, host, port, shape, server):
    points, end = [], time.monotonic() + args.limit
    for rate in rates_of(args):
        if points and time.monotonic() + args.seconds + args.warmup > end:
            print(f"no time is left for {rate:g} requests/s (--limit)")
            break
        points.append(measure(args, host, port, shape, server, rate=rate))
        print(row(points[-1]), flush=True)
        if load_metrics.past_knee(points) and not args.rates:
            break
    return points


def pair(text):
    low, _, high = text.partition(":")
    return float(low), float(high or low)


def parse(argv):
    cut = argv.index("--") if "--" in argv else len(argv)
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], usage=__doc__, add_help=True)
    p.add_argument("--binary")
    p.add_argument("--model")
    p.add_argument("--target", help="URL of a server that runs")
    p.add_argument("--api-key")
    p.add_argument("--request-rate", type=float, help="one run of so many turns a second (open loop)")
    p.add_argument("--max-concurrency", type=int, help="one run of so many users who wait for their answers (closed loop)")
    p.add_argument("--rates", type=lambda s: [float(x) for x in s.split(",")], help="a sweep over these, all of them")
    p.add_argument("--start", type=float, default=0.4, help="first rate of the sweep")
    p.add_argument("--factor", type=float, default=1.6)
    p.add_argument("--limit", type=float, default=150, help="seconds after which a sweep begins no other rate")
    p.add_argument("--points", type=int, default=8, help="of a sweep at most")
    p.add_argument("--seconds", type=float, default=20, help="of arrivals that count, each run")
    p.add_argument("--warmup", type=float, default=4, help="seconds of arrivals before them that do not")
    p.add_argument("--grace", type=float, help="seconds to finish in after the last arrival (default: --seconds)")
    p.add_argument("--burstiness", type=float, default=1.0)
    p.add_argument("--goodput", nargs="+", default=["ttft:4000", "tpot:250"], metavar="NAME:MS")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--document", type=pair, default=(256, 1024), help="tokens, LOW:HIGH")
    p.add_argument("--answer", type=pair, default=(16, 64))
    p.add_argument("--turns", type=pair, default=(1, 6))
    p.add_argument("--think", type=float, default=2.0)
    p.add_argument("--abort", type=float, default=0.05)
    p.add_argument("--job", type=float, default=0.3, help="share of the users with a made session who train")
    p.add_argument("--label", default=None)
    p.add_argument("--json")
    p.add_argument("--svg")
    p.add_argument("--save-detailed", action="store_true")
    args = p.parse_args(argv[:cut])
    if bool(args.target) == bool(args.binary and args.model):
        p.error("either --target or --binary and --model")
    try:
        args.goodput = load_metrics.parse_goodput(args.goodput)
    except ValueError as e:
        p.error(str(e))
    return args, argv[cut + 1:]


def shape_of(args):
    def whole(bounds):
        return int(bounds[0]), int(bounds[1])
    return Shape(document=args.document, answer=whole(args.answer), turns=whole(args.turns), think=args.think,
                 abort=args.abort, job=args.job)


def main():
    args, flags = parse(sys.argv[1:])
    server = Server(args.binary, args.model, "--log-level", "error", *flags) if args.binary else None
    try:
        host, port = "127.0.0.1", server.port if server else 0
        if args.target:
            url = urllib.parse.urlsplit(args.target)
            host, port = url.hostname, url.port or 80
        args.model_id = json.loads(fetch(host, port, "/v1/models")[1])["data"][0]["id"]
        shape = shape_of(args)
        print(" ".join(f"{title:>{width}}" for title, _, width, _ in COLUMNS), flush=True)
        if args.request_rate or args.max_concurrency:
            points = [measure(args, host, port, shape, server, args.request_rate, args.max_concurrency)]
            print(row(points[0]), flush=True)
        else:
            points = sweep(args, host, port, shape, server)
        report(args, points, shape)
    finally:
        status = server.stop() if server else 0
    if status != 0:
        raise SystemExit(f"load: the server ended with status {status}")


def report(args, points, shape):
    best = load_metrics.knee(points)
    limits = " ".join(f"{name} <= {value:g} ms" for name, value in args.goodput.items())
    if len(points) > 1:
        print(f"highest goodput: {points[best]['request_goodput']:.2f} requests/s at {points[best]['request_rate']:g} "
              f"offered ({limits})")
    busiest = max(p["client_cpu_share"] for p in points)
    print(f"the generator took {busiest:.2f} of one processor at most; its loop was "
          f"{max(p['client_lag_p99_ms'] for p in points):.1f} ms late (p99)")
    if args.json:
        out = {"points": points, "knee": points[best] if len(points) > 1 else None, "goodput_limits_ms": args.goodput,
               "users": dataclasses.asdict(shape), "processors": os.cpu_count(), "load_average": os.getloadavg()[0]}
        pathlib.Path(args.json).write_text(json.dumps(out, indent=2) + "\n")
    if args.svg and len(points) > 1:
        pathlib.Path(args.svg).write_text(load_svg.curves(points, best, f"{args.model_id}: {limits}"))


if __name__ == "__main__":
    main()
