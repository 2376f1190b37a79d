"""load_users.py - simulated users: who they are, what they ask, how they talk to the server.

A user has a document and a few questions about it, one after the other; it reads an answer and thinks before the next,
and sometimes leaves in the middle of one. All that it does is drawn from (seed, index), so that the same seed makes the same
users; only when a turn happens depends on the server. Three ways to talk:
  history  whole histories, as ordinary chat clients send them
  header   the same with an x-session-id, which makes an implicit session
  append   a session made with the document as its context, then appends; some of these train adapters (qTTT jobs)"""
import asyncio
import dataclasses
import random
import time

from load_client import CUT, Broken, Connection, Record, error_text

NOUNS = ("anchor archive baker bishop bridge cabinet canal captain cellar clerk coast column council courier dock engine "
         "ferry fortress garden glacier harbour island journal kettle lantern ledger library market mason meadow mill "
         "mirror museum orchard packet parish pilot quarry railway reservoir river saddle sailor signal smith station "
         "surgeon survey tavern theatre timber tower treaty tunnel valley vessel village weaver winter").split()
VERBS = ("answers builds carries closes counts crosses draws finds follows guards holds keeps leaves lights mends opens "
         "paints promises reaches repairs sells sends shows signs stores takes trades turns visits writes").split()
OTHERS = "the a this that every no some another our their".split()
WORDS_PER_TOKEN = 0.8  # of this prose, about; the server counts what it was


def prose(rng, n_words):
    """Sentences without sense, of words that are one or two tokens in any vocabulary."""
    out, left = [], n_words
    while left > 0:
        words = [rng.choice(OTHERS), rng.choice(NOUNS), rng.choice(VERBS), rng.choice(OTHERS), rng.choice(NOUNS)]
        if rng.random() < 0.3:
            words += ["in", str(rng.randint(1400, 1999))]
        out.append(" ".join(words).capitalize() + ".")
        left -= len(words)
    return " ".join(out)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What users are like. Pairs are bounds of a draw: log-uniform for the document, uniform for the others."""
    document: tuple = (256, 1024)  # tokens, about
    question: tuple = (8, 40)
    answer: tuple = (16, 64)  # max_tokens; answers go on to there
    turns: tuple = (1, 6)
    think: float = 2.0  # seconds in the mean, exponential
    abort: float = 0.05  # share of the turns that their user leaves
    shared: float = 0.25  # share of the users whose document is one of `popular`
    popular: int = 4
    ways: tuple = (("history", 4), ("header", 3), ("append", 3))  # and their weights
    job: float = 0.3  # share of the append users who train an adapter after their first answer
    job_steps: int = 4
    span: int = 128
    temperature: float = 0.0


@dataclasses.dataclass
class Turn:
    question: str
    max_tokens: int
    think: float  # after the answer before
    leave_tokens: int = None
    leave_seconds: float = None


class User:
    """One user. `turn()` asks the next question; `leave()` ends its session."""

    def __init__(self, index, seed, shape, host, port, key=None):
        rng = random.Random(f"{seed}/{index}")
        self.index, self.shape, self.seed = index, shape, seed
        self.connection = Connection(host, port, key)
        self.way = rng.choices([w for w, _ in shape.ways], [n for _, n in shape.ways])[0]
        self.session = None  # its id (append) or key (header)
        self.session_key = f"load-{seed}-{index}-{rng.getrandbits(32):08x}"
        self.document = self.draw_document(rng)
        self.turns = [self.draw_turn(rng, i) for i in range(rng.randint(*shape.turns))]
        self.trains = self.way == "append" and rng.random() < shape.job
        self.job_seed = rng.getrandbits(16)
        self.messages = [{"role": "system", "content": self.document}]
        self.done = []  # (turn, record) of what was completed, in order; replays go by it
        self.next = 0
        self.broken = False  # what the server holds of it is not known any more: it asks nothing else
        self.job = None  # the task that follows its adapter's job

    def draw_document(self, rng):
        shape = self.shape
        if rng.random() < shape.shared:
            rng = random.Random(f"{self.seed}/popular/{rng.randrange(shape.popular)}")
        low, high = shape.document
        tokens = low * (high / low) ** rng.random()
        return f"Notes of the {rng.choice(NOUNS)}. " + prose(rng, int(tokens * WORDS_PER_TOKEN))

    def draw_turn(self, rng, i):
        shape = self.shape
        turn = Turn(f"What does the text say of the {rng.choice(NOUNS)}? "
                    + prose(rng, int(rng.randint(*shape.question) * WORDS_PER_TOKEN)),
                    rng.randint(*shape.answer), rng.expovariate(1 / shape.think) if i and shape.think else 0.0)
        if rng.random() < shape.abort:
            if rng.random() < 0.5:
                turn.leave_tokens = rng.randint(1, max(1, turn.max_tokens // 2))
            else:
                turn.leave_seconds = rng.uniform(0.01, 1.0)
        return turn

    def wants_more(self):
        return self.next < len(self.turns) and not self.broken

    def body(self, messages, turn):
        """Of a chat request. max_tokens is what the answer has: without ignore_eos lengths would be the model's whim."""
        return {"messages": messages, "max_tokens": turn.max_tokens, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "temperature": self.shape.temperature}

    async def turn(self, records, scheduled=None, timeout=600):
        """Asks the next question; what comes of it is added to `records` at once, so that a run that is cut has it."""
        turn = self.turns[self.next]
        record = Record(user=self.index, turn=self.next, scheduled=scheduled or time.perf_counter())
        self.next += 1
        if self.way == "append" and self.session is None:
            record.start = time.perf_counter()
            record.error = await self.open(records)
            if record.error:
                record.end = time.perf_counter()
                records.append(record)
                return record
        question = {"role": "user", "content": turn.question}
        record.start = time.perf_counter()
        records.append(record)
        headers = {}
        if self.way == "append":
            body = {**self.body([question], turn), "session": self.session, "append": True}
        else:
            body = self.body([*self.messages, question], turn)
            headers = {"x-session-id": self.session_key} if self.way == "header" else {}
        await self.connection.stream(record, "/v1/chat/completions", body, headers, turn.leave_tokens,
                                     turn.leave_seconds, timeout)
        self.after(turn, record, question, records)
        return record

    def after(self, turn, record, question, records):
        if record.outcome == "completed":
            self.messages += [question, {"role": "assistant", "content": record.text}]
            self.done.append((turn, record))
            if self.trains and self.job is None:
                self.job = asyncio.ensure_future(self.train(records))
        elif self.way == "append" and (record.times or record.status == 0):
            # An append whose end was not seen may have counted or not.
            self.broken = True

    async def open(self, records):
        """POST /v1/sessions with the document; what went wrong, or nothing."""
        record = Record(kind="session", user=self.index, start=time.perf_counter())
        records.append(record)
        try:
            record.status, got = await self.connection.exchange("POST", "/v1/sessions", {"messages": self.messages})
            if record.status == 201:
                self.session, record.outcome = got["id"], "completed"
            else:
                record.error = f"session: {error_text(record.status, got)}"
        except Broken as e:
            record.error = str(e)
        except asyncio.CancelledError:
            record.error = CUT
            raise
        finally:
            record.end = time.perf_counter()
            self.broken = self.session is None
        return record.error

    async def train(self, records):
        """One job on the session, followed to its end over a connection of its own."""
        record = Record(kind="job", user=self.index, start=time.perf_counter())
        records.append(record)
        connection = Connection(self.connection.host, self.connection.port, self.connection.key)
        try:
            record.outcome, record.error = await follow_job(connection, self.session, self.job_body(), record)
        except Broken as e:
            record.error = str(e)
        except asyncio.CancelledError:
            record.error = CUT
            raise
        finally:
            record.end = time.perf_counter()
            connection.close()

    def job_body(self):
        return {"steps": self.shape.job_steps, "span_tokens": self.shape.span, "seed": self.job_seed, "guard": False}

    async def leave(self):
        """Deletes its session, if it has one, and hangs up."""
        if self.job is not None:
            await asyncio.gather(self.job, return_exceptions=True)
        self.connection.close()  # a chat that was cut has left its connection in any state
        for wait in (0.2, 0.5, 1.0, 2.0):  # what is in the way may pass; after that the time to live takes it
            if self.session is None:
                break
            try:
                status, _ = await self.connection.exchange("DELETE", f"/v1/sessions/{self.session}")
                if status in (200, 204, 404):
                    self.session = None
                    break
            except Broken:
                pass
            await asyncio.sleep(wait)
        self.connection.close()


async def follow_job(connection, session, body, record, poll=0.1):
    """(outcome, error) of one job. A server that has too many waiting refuses it: that is an outcome, not a failure."""
    record.status, job = await connection.exchange("POST", f"/v1/sessions/{session}/qttt/jobs", body)
    if record.status == 429:
        return "aborted", "job: 429"
    if record.status != 202:
        return "failed", f"job: {error_text(record.status, job)}"
    while job["status"] in ("queued", "running", "paused"):
        await asyncio.sleep(poll)
        poll = min(2 * poll, 1.0)
        status, job = await connection.exchange("GET", f"/v1/qttt/jobs/{job['id']}")
        if status != 200:
            return "failed", f"job: {error_text(status, job)}"
    if job["status"] == "succeeded":
        return "completed", ""
    code = (job.get("error") or {}).get("code")
    return ("aborted", f"job: {code}") if code == "context_too_short" else ("failed", f"job: {job['status']} {code}")
