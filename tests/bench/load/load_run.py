"""load_run.py - one run of a load: users arrive, records come out. Open loop (Poisson or burstier) or closed loop.

Open loop: turns are asked at the times of a Poisson process, whether the server keeps up or not. Each arrival is the next
turn of the user who is ready (has thought) and has waited longest, or of a new user when nobody is. So the rate is exact
from the first second, and a server that falls behind gets ever more new users with unread documents, as in life.
Closed loop: so many users, each of whom waits for its answer, thinks, asks again, and makes way for the next."""
import asyncio
import dataclasses
import itertools
import random
import resource
import time

from load_users import Shape, User


@dataclasses.dataclass
class Plan:
    """What one run does. rate: turns a second (open loop), or concurrency: users (closed loop)."""
    host: str
    port: int
    shape: Shape
    rate: float = None
    concurrency: int = None
    burstiness: float = 1.0  # 1: Poisson; less: burstier (gamma, as vllm bench serve)
    seconds: float = 20.0  # of arrivals that count
    warmup: float = 0.0  # seconds of arrivals before them that do not
    grace: float = 30.0  # after the last arrival; what has not ended then has failed
    seed: int = 0
    key: str = None


@dataclasses.dataclass
class Outcome:
    records: list  # that count
    all_records: list
    users: list
    duration: float
    client: dict  # what the generator itself cost
    leaving: float = 0.0  # seconds that deleting all sessions took


def arrivals(rate, burstiness, seconds, rng):
    """Times in [0, seconds) of a gamma process with `rate` events a second; burstiness 1 is a Poisson process."""
    t = 0.0
    while True:
        t += rng.gammavariate(burstiness, 1 / (rate * burstiness))
        if t >= seconds:
            return
        yield t


class Watch:
    """What the generator itself costs: processor time, and how late its loop is."""

    def __init__(self):
        self.lags, self.late = [], []
        self.wall, self.cpu = time.perf_counter(), self.cpu_now()
        self.task = asyncio.ensure_future(self.tick())

    @staticmethod
    def cpu_now():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    async def tick(self, period=0.02):
        while True:
            due = time.perf_counter() + period
            await asyncio.sleep(period)
            self.lags.append(max(0.0, time.perf_counter() - due))

    def end(self):
        """Figures for the report. A processor share towards 1, or a lag that is not small beside the latencies measured,
        means that the generator and not the server was measured."""
        self.task.cancel()
        wall = time.perf_counter() - self.wall
        lags, late = sorted(self.lags) or [0.0], sorted(self.late) or [0.0]
        return {"client_cpu_share": (self.cpu_now() - self.cpu) / wall,
                "client_lag_p99_ms": 1e3 * lags[int(0.99 * (len(lags) - 1))],
                "client_late_p99_ms": 1e3 * late[int(0.99 * (len(late) - 1))]}


class Run:
    def __init__(self, plan):
        self.plan, self.records, self.users, self.tasks = plan, [], [], set()
        self.ready = []  # (when its thinking ends, index, user)
        self.numbers = itertools.count()
        self.watch = self.broken = None

    def new_user(self):
        plan = self.plan
        user = User(next(self.numbers), plan.seed, plan.shape, plan.host, plan.port, plan.key)
        self.users.append(user)
        return user

    def next_user(self, now):
        """Who asks at an arrival: the user who has been ready for longest, else a new one."""
        if self.ready and min(self.ready)[0] <= now:
            first = min(self.ready)
            self.ready.remove(first)
            return first[2]
        return self.new_user()

    def start(self, work):
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.broken = self.broken or task.exception()

    async def open_turn(self, user, scheduled):
        self.watch.late.append(max(0.0, time.perf_counter() - scheduled))
        await user.turn(self.records, scheduled)
        if user.wants_more():
            self.ready.append((time.perf_counter() + user.turns[user.next].think, user.index, user))
        else:
            await user.leave()

    async def open_loop(self, begin, end):
        plan = self.plan
        rng = random.Random(f"{plan.seed}/arrivals/{plan.rate}")
        for t in arrivals(plan.rate, plan.burstiness, end - begin, rng):
            await asyncio.sleep(max(0.0, begin + t - time.perf_counter()))
            self.start(self.open_turn(self.next_user(time.perf_counter()), begin + t))

    async def closed_user(self, user, end):
        while user.wants_more() and time.perf_counter() < end:
            await asyncio.sleep(min(user.turns[user.next].think, max(0.0, end - time.perf_counter())))
            if time.perf_counter() < end:
                await user.turn(self.records)
        await user.leave()

    async def closed_place(self, end):
        while time.perf_counter() < end:
            user = self.new_user()
            await self.closed_user(user, end)
            if not user.done:
                await asyncio.sleep(0.05)  # a server that refuses at once is not asked at once again

    async def closed_loop(self, end):
        for _ in range(self.plan.concurrency):
            self.start(self.closed_place(end))
        await asyncio.sleep(max(0.0, end - time.perf_counter()))

    async def finish(self):
        """Waits for what runs, at most plan.grace; the rest is cut."""
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=self.plan.grace)
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def run(self):
        plan = self.plan
        self.watch = Watch()
        begin = time.perf_counter()
        counted = begin + plan.warmup
        end = counted + plan.seconds
        if plan.rate is not None:
            await self.open_loop(begin, end)
            await asyncio.sleep(max(0.0, end - time.perf_counter()))
        else:
            await self.closed_loop(end)
        await self.finish()
        client = self.watch.end()
        if self.broken is not None:
            raise self.broken  # a mistake of the generator, not of the server
        records = [r for r in self.records if r.scheduled >= counted or r.kind != "chat"]
        # As vllm bench serve: until the last request has ended.
        last = max((r.end for r in records if r.kind == "chat"), default=end)
        left = time.perf_counter()
        await asyncio.gather(*(u.leave() for u in self.users if u.session is not None or u.connection.writer))
        return Outcome(records, self.records, self.users, max(last, end) - counted, client, time.perf_counter() - left)


def run(plan):
    return asyncio.run(Run(plan).run())
