#!/usr/bin/env python3
"""soak.py - a server under load for a long time while things break around it, and what must hold all the same.

soak.py --binary build/server/qttt --model FILE [--seconds 1800]       SOAK_SECONDS counts too
soak.py --binary build/server/qttt --small-from REAL.gguf [...]        over a small model with its vocabulary (build/venv)

Users (load_users.py) talk through two proxies that are killed and started again; one turn in five its user leaves; jobs
train; writes to disk fail for moments (a limit on file sizes, as if the disk were full). At the end: every request has
ended, and none without a reason; nothing runs, waits or is open; no K/V page is in use and no session left; memory and open
files have not grown; conversations drawn at random, repeated on a second server that is quiet, have the same answers; both
servers exit with 0; the state folder is sound, and a server starts from it. Prints `N passed, N failed`."""
import argparse
import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time

import load_metrics
import load_run
import load_users
from load_client import Connection, Record
from load_server import Server, is_idle, metrics

HERE = pathlib.Path(__file__).resolve().parent

# Everything that may be kept is bounded so that it is full within the warm-up: what grows after that leaks.
SETTINGS = """
model: {max_context: 4096, kv_size: KV_SIZE}
limits: {max_requests: 24}
sched: {max_running: 8}
stream: {heartbeat_seconds: 1}
sessions: {max: 24}
jobs: {max_finished: 16, max_events: 64}
qttt: {adapter_cache: 1MiB, max_jobs: 2}
idempotency: {max_entries: 64, max_size: 1MiB}
state: {max_bytes: 8MiB}
"""
SHAPE = load_users.Shape(document=(200, 1500), question=(8, 30), answer=(4, 48), turns=(1, 6), think=0.3, abort=0.2,
                         shared=0.25, ways=(("history", 3), ("header", 3), ("append", 4)), job=0.3, job_steps=3, span=64)
USERS = 10
WARMUP = 0.4  # share of the time after which memory may not grow
GROWTH_BYTES_A_REQUEST = 1024  # of the slope of its memory; a lost request or session costs more
WARM_REQUESTS = 200  # that it takes at least until workspaces, arenas and stores have their size
GROWTH_UNTIL_WARM = 96 << 20  # all that may grow when the time was too short, or the machine too busy, for so many
GROWTH_FLOOR = 16 << 20  # bytes: what is bounded may still fill up, and allocators have moods
SAMPLE = 12  # conversations that are computed again


class Proxy:
    """tcp_proxy.py on a port that stays the same when it is killed."""

    def __init__(self, target):
        self.target = target
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, str(HERE / "tcp_proxy.py"), str(self.port), str(self.target)],
                                        stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit("soak: a proxy does not start")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, ok, what):
        self.passed += bool(ok)
        self.failed += not ok
        print(("ok   " if ok else "FAIL ") + what, flush=True)


class Soak(load_run.Run):
    """A closed loop whose users come through the proxies, and the faults beside it."""

    def __init__(self, server, args):
        self.server, self.kill_every = server, args.kill_every
        self.proxies = [Proxy(server.port) for _ in range(2)]
        super().__init__(load_run.Plan("127.0.0.1", self.proxies[0].port, SHAPE, concurrency=USERS, seconds=args.seconds,
                                       grace=60, seed=args.seed))
        self.rng = random.Random(f"{args.seed}/faults")
        self.faults = []  # (from, to, what), perf_counter
        self.samples = []  # (time, resident bytes, open files, requests ended)

    def new_user(self):
        user = super().new_user()
        user.connection.port = self.proxies[user.index % 2].port
        return user

    def begin_fault(self, what):
        self.faults.append([time.perf_counter(), float("inf"), what])
        return self.faults[-1]

    async def kill_proxies(self):
        while True:
            await asyncio.sleep(self.kill_every * self.rng.uniform(0.5, 1.5))
            proxy = self.rng.choice(self.proxies)
            fault = self.begin_fault("proxy")
            proxy.kill()
            await asyncio.sleep(self.rng.uniform(0.05, 1.0))
            proxy.start()
            fault[1] = time.perf_counter()

    async def fail_disk(self):
        """No file may grow any more, for moments. Nothing else of the process is concerned: it writes to no other file."""
        pid = self.server.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        while True:
            await asyncio.sleep(self.rng.uniform(5, 12))
            fault = self.begin_fault("disk")
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
            try:
                await asyncio.sleep(self.rng.uniform(0.2, 3.0))
            finally:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
                fault[1] = time.perf_counter()

    async def sample(self):
        while True:
            if self.server.process.poll() is not None:
                raise SystemExit(f"soak: the server ended with {self.server.process.returncode}")
            ended = sum(r.end > 0 for r in self.records)
            self.samples.append((time.perf_counter(), self.server.resident(), self.server.open_files(), ended))
            await asyncio.sleep(1)

    async def run(self):
        beside = [asyncio.ensure_future(work) for work in (self.kill_proxies(), self.fail_disk(), self.sample())]
        main = asyncio.ensure_future(super().run())
        try:
            await asyncio.wait([main, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()  # raises what ended it
            return await main
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            for proxy in self.proxies:
                with contextlib.suppress(ProcessLookupError, ValueError):
                    proxy.kill()

    def excused(self, record):
        """Whether a fault that was going on explains what became of a request."""
        def during(what, after=1.0):
            return any(a - 0.1 <= record.end and record.start <= b + after for a, b, w in self.faults if w == what)
        if record.error.startswith("connection:"):
            return during("proxy")
        if "state_unavailable" in record.error:
            return during("disk", after=5.0)
        return record.error.startswith(("429", "session: 429"))  # counted apart


def slope(samples):
    """Bytes a second of a straight line through (time, bytes)."""
    n = len(samples)
    mean_t, mean_v = sum(t for t, *_ in samples) / n, sum(v for _, v, *_ in samples) / n
    below = sum((t - mean_t) ** 2 for t, *_ in samples)
    return sum((t - mean_t) * (v - mean_v) for t, v, *_ in samples) / below if below else 0.0


async def delete_sessions(host, port):
    """Deletes what is left; how many there were."""
    connection, n = Connection(host, port), 0
    try:
        while True:
            status, page = await connection.exchange("GET", "/v1/sessions?limit=100")
            if status != 200 or not page["data"]:
                return n
            for session in page["data"]:
                await connection.exchange("DELETE", f"/v1/sessions/{session['id']}")
                n += 1
    finally:
        connection.close()


async def replay(user, host, port):
    """The completed turns of a user again, alone, in their order, and the job before the first answer that its adapter gave.
    Returns how many answers were compared, and the first that differs."""
    twin = load_users.User(user.index, user.seed, user.shape, host, port)
    twin.trains, generation = False, 0
    compared = 0
    try:
        for turn, record in user.done:
            if twin.way == "append" and twin.session is None and (error := await twin.open([])):
                return compared, f"session: {error}"
            if record.session and record.session["generation"] > generation:
                outcome, error = await load_users.follow_job(twin.connection, twin.session, user.job_body(), Record())
                if outcome != "completed":
                    return compared, f"job: {error}"
                generation += 1
            twin.turns[0], twin.next = load_users.Turn(turn.question, turn.max_tokens, 0.0), 0
            again = await twin.turn([])
            if again.text != record.text or again.outcome != "completed":
                return compared, (f"user {user.index} ({user.way}), turn {record.turn}, generation {generation}: "
                                  f"{record.text!r} became {again.text!r} ({again.outcome} {again.error})")
            compared += 1
    finally:
        await twin.leave()
    return compared, None


async def replay_all(users, host, port):
    total = 0
    for user in users:
        n, wrong = await replay(user, host, port)
        total += n
        if wrong:
            return total, wrong
    return total, None


def draw(users, rng):
    """Conversations to repeat: of each way to talk, and those with an adapter first."""
    candidates = [u for u in users if u.done]
    rng.shuffle(candidates)
    adapted = [u for u in candidates if any(r.session and r.session["generation"] for _, r in u.done)]
    chosen = adapted[:SAMPLE // 3]
    for way in ("history", "header", "append"):
        chosen += [u for u in candidates if u.way == way and u not in chosen][:SAMPLE // 4]
    return chosen


def small_model(real, folder):
    """A model that is quick, with the vocabulary of a real one; needs build/venv."""
    path = folder / "small.gguf"
    subprocess.run([sys.executable, str(HERE.parents[1] / "tools/small_model.py"), str(real), str(path)], check=True)
    return path


def wait_for(test, seconds):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def judge_requests(checks, soak, outcome):
    chats = [r for r in outcome.all_records if r.kind == "chat"]
    failed = [r for r in outcome.all_records if r.outcome == "failed"]
    odd = [r for r in failed if not soak.excused(r)]
    of = load_metrics.count([r.outcome for r in chats])
    kinds = load_metrics.count([w for *_, w in soak.faults])
    print(f"requests: {of}; jobs {load_metrics.count([r.outcome for r in outcome.all_records if r.kind == 'job'])}; "
          f"faults: {kinds}; failed: {load_metrics.count([r.error.split(' ')[0] for r in failed])}")
    checks.check(of.get("completed", 0) > 0.25 * len(chats) and of.get("aborted", 0) > 0,
                 f"{of.get('completed', 0)} of {len(chats)} requests completed")
    checks.check(not odd, "every failure has its reason"
                 + "".join(f"\n     {r.kind} of user {r.user}: {r.error}" for r in odd[:5]))
    checks.check(not [r for r in outcome.all_records if r.error.startswith("not finished")], "no request is stuck")


def judge_memory(checks, samples, limit_files):
    begin, end = samples[0][0], samples[-1][0]
    window = [s for s in samples if s[0] >= begin + WARMUP * (end - begin) and s[3] >= WARM_REQUESTS]
    warm = bool(window) and window[-1][3] - window[0][3] >= WARM_REQUESTS / 2
    window = window if warm else samples
    seconds, requests = window[-1][0] - window[0][0], window[-1][3] - window[0][3]
    growth = slope(window) * seconds if warm else max(v for _, v, *_ in window) - window[0][1]
    bound = GROWTH_FLOOR + GROWTH_BYTES_A_REQUEST * requests if warm else GROWTH_UNTIL_WARM
    checks.check(growth < bound, f"memory grew by {growth / 2**20:.2f} MiB in {seconds:.0f} s and {requests} requests"
                 f"{'' if warm else ' from cold'}, from {window[0][1] / 2**20:.1f} MiB (bound {bound / 2**20:.2f})")
    checks.check(samples[-1][2] <= limit_files, f"{samples[-1][2]} open files, {limit_files} at most")


def judge_rest(checks, server, left_sessions, disk_faults):
    checks.check(wait_for(lambda: is_idle(metrics(server.host, server.port)), 30), "nothing runs or waits")
    m = metrics(server.host, server.port)
    checks.check(m["vllm:kv_cache_usage_perc"] == 0, f"no K/V page is in use ({m['vllm:kv_cache_usage_perc']})")
    checks.check(m["qttt_open_requests"] <= 1, f"no request is open but that for it ({m['qttt_open_requests']:.0f})")
    checks.check(m["qttt_sessions"] == 0 and m["qttt_session_bytes"] == 0, f"no session is left after {left_sessions} were "
                 f"deleted ({m['qttt_sessions']:.0f}, {m['qttt_session_bytes']:.0f} bytes)")
    checks.check(m["qttt_state_on"] == 1 and wait_for(lambda: "degraded" not in server.get("/readyz")[1], 30),
                 "its state is on disk again")
    # Few faults may fall into moments without a change.
    checks.check(m["qttt_state_failures_total"] > 0 or disk_faults < 6, f"{disk_faults} faults of the disk were felt")
    ready, body = server.get("/readyz")
    checks.check(ready == 200, f"the server is ready ({ready} {body.strip()[:80]})")
    print(f"preemptions {m['qttt_preemptions_total']:.0f}, clients that left {m['qttt_clients_left_total']:.0f}, "
          f"generated tokens {m['qttt_generated_tokens_total']:.0f}, jobs kept {m['qttt_adapters_kept_total']:.0f}, "
          f"changes that could not be written {m['qttt_state_failures_total']:.0f}")


async def listed(host, port, path):
    """{id: status} of the last sessions or jobs."""
    connection = Connection(host, port)
    try:
        status, page = await connection.exchange("GET", f"{path}?limit=100")
        return {item["id"]: item["status"] for item in page["data"]} if status == 200 else {}
    finally:
        connection.close()


async def leave_behind(host, port, seed):
    """A conversation in a session that stays; the user, for its next turn."""
    shape = dataclasses.replace(SHAPE, ways=(("append", 1),), abort=0.0, turns=(3, 3), shared=0.0, job=0.0)
    user = load_users.User(0, f"{seed}/behind", shape, host, port)
    for _ in range(2):
        await user.turn([])
    user.connection.close()
    return user


async def go_on(user, port):
    """The next turn of a session that has been through a restart; what came of it."""
    user.connection.port = port
    record = await user.turn([])
    user.connection.close()
    return record


def judge_state(checks, args, model, settings, folder, jobs, user):
    """What is on disk after all the faults: as it was written, and enough to go on from."""
    check = subprocess.run([args.binary, "state", "check", str(folder / "state")], capture_output=True, text=True)
    said = (check.stdout + check.stderr).strip().splitlines()
    checks.check(check.returncode == 0, f"the state folder is sound ({said[-1] if said else check.returncode})")
    again = Server(args.binary, model, *flags_of(folder), settings=settings, log=folder / "again.log")
    try:
        kept = asyncio.run(listed(again.host, again.port, "/v1/qttt/jobs"))
        checks.check(kept == jobs, f"after a restart the {len(jobs)} finished jobs are there ({len(kept)})")
        kept = asyncio.run(listed(again.host, again.port, "/v1/sessions"))
        checks.check(list(kept) == [user.session], f"and the session {user.session} ({', '.join(kept)})")
        record = asyncio.run(go_on(user, again.port))
        checks.check(record.outcome == "completed", f"which goes on ({record.outcome} {record.error})")
        checks.check(again.stop() == 0, "and the server exits with 0 again")
    finally:
        again.kill()


def flags_of(folder):
    return ["--log-level", "warn", "--state-dir", str(folder / "state")]


def soak(checks, args, model, folder):
    settings = SETTINGS.replace("KV_SIZE", args.kv_size)
    server = Server(args.binary, model, *flags_of(folder), settings=settings, log=folder / "server.log")
    quiet = None
    try:
        files = server.open_files()
        run = Soak(server, args)
        outcome = asyncio.run(run.run())
        if args.samples:
            pathlib.Path(args.samples).write_text("".join(f"{t:.1f},{v},{n},{k}\n" for t, v, n, k in run.samples))
        judge_requests(checks, run, outcome)
        time.sleep(1)
        left = asyncio.run(delete_sessions(server.host, server.port))
        judge_rest(checks, server, left, sum(what == "disk" for *_, what in run.faults))
        run.samples.append((time.perf_counter(), server.resident(), server.open_files(), run.samples[-1][3]))
        # Files: its epolls, databases and threads' own may have come with the first requests, but no sockets stay.
        judge_memory(checks, run.samples, files + 16)
        quiet = Server(args.binary, model, "--log-level", "warn", "--state-dir", "none")
        chosen = draw(outcome.users, random.Random(f"{args.seed}/sample"))
        compared, wrong = asyncio.run(replay_all(chosen, quiet.host, quiet.port))
        checks.check(compared > 0 and not wrong, f"{compared} answers of {len(chosen)} users came out the same again"
                     + (f"\n     {wrong}" if wrong else ""))
        behind = asyncio.run(leave_behind(server.host, server.port, args.seed))
        jobs = asyncio.run(listed(server.host, server.port, "/v1/qttt/jobs"))
        status = server.stop()
        judge_state(checks, args, model, settings, folder, jobs, behind)
        n, wrong = asyncio.run(replay(behind, quiet.host, quiet.port))
        checks.check(n == 3 and not wrong, f"its {n} answers are those of a server that never ended" + (wrong or ""))
        statuses = [status, quiet.stop()]
        checks.check(statuses == [0, 0], f"both servers exit with 0 ({statuses})")
    finally:
        for s in (server, quiet):
            if s is not None:
                s.kill()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--binary", required=True)
    p.add_argument("--model")
    p.add_argument("--small-from")
    p.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or 1800))
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--kv-size", default="4MiB", help="of the server; a third of what the users' conversations would fill")
    p.add_argument("--kill-every", type=float, default=4.0, help="seconds in the mean between two kills of a proxy")
    p.add_argument("--samples", help="write time, resident bytes, open files and ended requests there, a line a second")
    args = p.parse_args()
    if bool(args.model) == bool(args.small_from):
        p.error("either --model or --small-from")
    # A heap a thread grows in steps of megabytes, whatever is kept: one shows a leak.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    print(f"soak: {args.seconds:.0f} s, seed {args.seed}", flush=True)
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="qttt-soak-") as name:
        folder = pathlib.Path(name)
        model = args.model or small_model(args.small_from, folder)
        try:
            soak(checks, args, model, folder)
        except (SystemExit, OSError) as e:
            checks.check(False, f"the soak went to its end: {e}")
        if checks.failed and (folder / "server.log").exists():
            print("the server's log ends:\n" + (folder / "server.log").read_text(errors="replace")[-4000:])
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
