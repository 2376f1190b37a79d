"""load_client.py - one HTTP/1.1 connection of a simulated user: JSON exchanges, and streamed answers with the time of
every piece of text.

Standard library only. A connection is kept alive between the requests of its user, as SDKs do; to leave in the middle of
an answer is to close it."""
import asyncio
import contextlib
import dataclasses
import json
import time

CUT = "not finished at the end of the run"
LIMIT = 1 << 22  # bytes of one line; an answer's last event may carry much


class Broken(Exception):
    """The connection ended or answered what is not HTTP."""


class Left(Exception):
    """The user has left: the abort that was planned."""


@dataclasses.dataclass
class Record:
    """One request. Times are seconds of time.perf_counter()."""
    kind: str = "chat"
    user: int = 0
    turn: int = 0
    scheduled: float = 0.0  # when it was to be sent
    start: float = 0.0  # when its first byte went out
    times: list = dataclasses.field(default_factory=list)  # of the pieces of text
    end: float = 0.0  # of the last event before [DONE]
    outcome: str = "failed"  # completed, failed, or aborted: the user left as planned
    status: int = 0  # of HTTP; 0: no answer
    error: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""
    finish: str = ""
    session: dict = None  # the `session` object of the answer


class Connection:
    def __init__(self, host, port, key=None):
        self.host, self.port, self.key = host, port, key
        self.reader = self.writer = None

    def close(self):
        if self.writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.writer.transport.abort()
        self.reader = self.writer = None

    async def send(self, method, path, body=None, headers=None):
        if self.writer is not None and (self.reader.at_eof() or self.writer.is_closing()):
            self.close()
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=LIMIT)
            data = b"" if body is None else json.dumps(body).encode()
            lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
            if body is not None:
                lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
            if self.key:
                lines.append(f"Authorization: Bearer {self.key}")
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
            await self.writer.drain()
        except OSError as e:
            self.close()
            raise Broken(f"connection: {e.__class__.__name__}") from e

    async def head(self):
        """(status, headers with names in lower case)"""
        try:
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.strip().lower(): value.strip()
                       for name, _, value in (line.partition(":") for line in raw[1:] if line)}
            return int(raw[0].split(" ")[1]), headers
        except (OSError, asyncio.IncompleteReadError) as e:
            self.close()
            raise Broken("connection: closed before an answer") from e
        except (ValueError, IndexError, asyncio.LimitOverrunError) as e:
            self.close()
            raise Broken("answer: no HTTP") from e

    async def pieces(self, headers):
        """The body as it arrives."""
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while True:
                    size = int((await self.reader.readline()).split(b";")[0] or b"x", 16)
                    data = await self.reader.readexactly(size + 2)
                    if size == 0:
                        break
                    yield data[:-2]
            else:
                left = int(headers.get("content-length", 0))
                while left > 0:
                    data = await self.reader.read(min(left, 65536))
                    if not data:
                        raise asyncio.IncompleteReadError(b"", left)
                    left -= len(data)
                    yield data
        except (OSError, asyncio.IncompleteReadError, ValueError) as e:
            self.close()
            raise Broken("connection: closed in the middle of an answer") from e
        if headers.get("connection", "").lower() == "close":
            self.close()

    async def exchange(self, method, path, body=None, headers=None, timeout=120):
        """(status, parsed body); the body is bytes when it is no JSON. Broken on everything that is no answer."""
        try:
            async with asyncio.timeout(timeout):
                await self.send(method, path, body, headers)
                status, head = await self.head()
                data = b"".join([piece async for piece in self.pieces(head)])
        except TimeoutError:
            self.close()
            raise Broken(f"no answer in {timeout} s") from None
        except asyncio.CancelledError:
            self.close()
            raise
        with contextlib.suppress(ValueError):
            return status, json.loads(data)
        return status, data

    async def stream(self, record, path, body, headers=None, leave_tokens=None, leave_seconds=None, timeout=600):
        """Posts `body`, which asks for a stream, and fills `record`. leave_tokens, leave_seconds: the user leaves after so
        many pieces of text or so much time, whichever comes first."""
        record.start = time.perf_counter()
        bound = min(timeout, leave_seconds) if leave_seconds is not None else timeout
        try:
            async with asyncio.timeout(bound):
                await self.send("POST", path, body, headers)
                record.status, head = await self.head()
                if record.status != 200:
                    data = b"".join([piece async for piece in self.pieces(head)])
                    record.error = error_text(record.status, data)
                else:
                    await self.events(record, head, leave_tokens)
        except (TimeoutError, Left):
            late = leave_seconds is not None and bound == leave_seconds
            planned = late or (leave_tokens is not None and len(record.times) >= leave_tokens)
            record.outcome = "aborted" if planned else "failed"
            record.error = "" if planned else f"not finished in {timeout} s"
            self.close()
        except Broken as e:
            record.error = str(e)
        except asyncio.CancelledError:
            record.error = CUT
            self.close()
            raise
        finally:
            if record.outcome != "completed":
                record.end = time.perf_counter()
        return record

    async def events(self, record, head, leave_tokens):
        buffer, done = b"", False
        async for piece in self.pieces(head):
            now = time.perf_counter()
            buffer += piece
            while (cut := buffer.find(b"\n\n")) >= 0:
                event, buffer = buffer[:cut], buffer[cut + 2:]
                if event == b"data: [DONE]":
                    done = True
                elif event.startswith(b"data: "):
                    take_event(record, json.loads(event[6:]), now)
                    record.end = now
            if leave_tokens is not None and len(record.times) >= leave_tokens and not done:
                raise Left
        if not record.error:
            if done and record.finish:
                record.outcome = "completed"
            else:
                record.error = "stream: ended without [DONE]"


def error_text(status, data):
    """data: the body, as bytes or parsed."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = (json.loads(data) if isinstance(data, bytes) else data)["error"]
        return f"{status} {error.get('code') or error['type']}: {error['message']}"
    return f"{status}"


def take_event(record, event, now):
    """One event of a stream. A piece of text is a token or, where the server collects them, several."""
    if "error" in event:
        error = event["error"]
        record.error = f"stream: {error.get('code') or error.get('type')}: {error.get('message')}"
    for choice in event.get("choices", []):
        text = choice.get("text") or choice.get("delta", {}).get("content")
        if text:
            record.times.append(now)
            record.text += text
        record.finish = choice.get("finish_reason") or record.finish
    if usage := event.get("usage"):
        record.prompt_tokens = usage["prompt_tokens"]
        record.output_tokens = usage["completion_tokens"]
        record.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    if event.get("session"):
        record.session = event["session"]
