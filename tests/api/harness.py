"""Starts the real binary and talks to it: raw HTTP/1.1 over a socket, where tests need every byte, and SSE.

Standard library only (but for pytest and the metrics' parser), so that what is tested is the server and not a client's tolerance.
"""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import spec

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Programs that a test starts by itself keep their state away from the user's.
STATE_HOME = tempfile.TemporaryDirectory(prefix="qttt-test-state-")
os.environ["XDG_STATE_HOME"] = STATE_HOME.name
BINARY = os.environ.get("QTTT_BINARY", str(ROOT / "build/server/qttt"))
REAL_MODEL = str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
MODEL = os.environ.get("QTTT_MODEL", REAL_MODEL)  # another one: tests marked real_model are skipped
# Sanitizer builds are slower; limits on time are multiplied by this.
TIME_FACTOR = float(os.environ.get("QTTT_TIME_FACTOR", "1"))
LONG = 120 * TIME_FACTOR  # seconds after which a test gives up
ENDED = ("succeeded", "failed", "cancelled")  # of qTTT jobs


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(get, holds=bool, seconds=LONG, told=None, every=0.02):
    """What get() gives as soon as holds(it); after `seconds` it fails with what was given last, or with told()."""
    deadline = time.monotonic() + seconds
    while not holds(now := get()):
        assert time.monotonic() < deadline, now if told is None else told()
        time.sleep(every)
    return now


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def events(self):
        return parse_events(self.body)


class Connection:
    """One keep-alive connection; reads exactly what HTTP says, never more."""

    def __init__(self, port, timeout=LONG, host="127.0.0.1"):
        self.sock = socket.create_connection((host, port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, path, body=None, headers=None):
        """Sends and reads one exchange; `body` may be bytes or something for JSON."""
        self.send(encode(method, path, body, headers))
        return self.response(method, path)

    def response(self, method="GET", path=None):
        status, headers = self.head()
        while status == 100:
            status, headers = self.head()
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        else:
            body = self.rest()
        response = Response(status, headers, body)
        if path is not None:
            spec.check(method, path, response)
        return response

    def head(self):
        raw = self.until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            if line:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
        return int(lines[0].split(" ")[1]), headers

    def chunks(self):
        """Decoded pieces of a chunked body as they arrive."""
        while True:
            n = int(self.until(b"\r\n").split(b";")[0], 16)
            data = self.exactly(n)
            self.exactly(2)
            if n == 0:
                return
            yield data

    def events(self):
        """Parsed events of a stream, one by one; call after head()."""
        raw = b""
        for piece in self.chunks():
            raw += piece
            while b"\n\n" in raw:
                block, _, raw = raw.partition(b"\n\n")
                yield parse_events(block + b"\n\n")[0]
        assert raw == b"", raw

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("closed by the server" + (f" after {self.buffer[-80:]!r}" if self.buffer else ""))
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.fill()
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def exactly(self, n):
        while len(self.buffer) < n:
            self.fill()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def rest(self):
        with contextlib.suppress(ConnectionError):
            while True:
                self.fill()
        data, self.buffer = self.buffer, b""
        return data


def encode(method, path, body=None, headers=None):
    headers = {"Host": "localhost", **(headers or {})}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def parse_events(raw):
    """The strict reading of our streams: each event is one `data:` line or one comment, then a blank line."""
    assert raw.endswith(b"\n\n"), raw[-80:]
    out = []
    for block in raw.decode("utf-8").split("\n\n")[:-1]:
        assert "\n" not in block and "\r" not in block, block
        if block.startswith(":"):
            assert block == ": keep-alive", block
            out.append(None)
        else:
            assert block.startswith("data: "), block
            data = block[len("data: "):]
            out.append("[DONE]" if data == "[DONE]" else json.loads(data))
    return out


class Server:
    """`qttt serve` on a free port, or on one of a server that has ended. settings: keys of config/qttt.yaml as nested
    dictionaries."""

    def __init__(self, *flags, settings=None, model=MODEL, wait="ready", env=None, port=None):
        self.port = port or free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-test-")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        command = [BINARY, "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        if settings is not None:
            config = pathlib.Path(self.folder.name) / "qttt.yaml"
            config.write_text(yaml_text(settings))
            command += ["--config", str(config)]
        if model:
            command += ["--model", str(model)]
        if "--state-dir" not in flags and "state" not in (settings or {}):
            command += ["--state-dir", f"{self.folder.name}/state"]
        if "QTTT_TEST_THREADS" in os.environ:
            command += ["--threads", os.environ["QTTT_TEST_THREADS"]]
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen([*command, *flags], stdout=self.log, stderr=subprocess.STDOUT,
                                        env={**os.environ, **(env or {})})
        if wait == "ready":
            self.wait_for("/readyz", 200)
        elif wait == "alive":
            self.wait_for("/livez", 200)

    def wait_for(self, path, status, seconds=LONG):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log_text()}")
            with contextlib.suppress(OSError):
                if self.request("GET", path).status == status:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{path} did not answer {status} in {seconds} s:\n{self.log_text()}")

    def connect(self, timeout=LONG):
        return Connection(self.port, timeout)

    def request(self, method, path, body=None, headers=None):
        with self.connect() as c:
            return c.request(method, path, body, {"Connection": "close", **(headers or {})})

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def until(self, path, holds, seconds=LONG):
        """The JSON at a path as soon as holds(it)."""
        return until(lambda: self.get(path).json(), holds, seconds)

    def job(self, job, holds=lambda j: j["status"] in ENDED, seconds=LONG):
        """A qTTT job (its id, or what was told of it) as soon as holds(it); without: as soon as it has ended."""
        return self.until(f"/v1/qttt/jobs/{job if isinstance(job, str) else job['id']}", holds, seconds)

    def metrics(self):
        from prometheus_client.parser import text_string_to_metric_families
        text = self.get("/metrics").body.decode()
        return {(s.name, tuple(sorted(s.labels.items()))): s.value
                for family in text_string_to_metric_families(text) for s in family.samples}

    def load(self):
        """(running, waiting) requests."""
        found = {name: value for (name, _), value in self.metrics().items()}
        return int(found["vllm:num_requests_running"]), int(found["vllm:num_requests_waiting"])

    def wait_load(self, test, seconds):
        """Seconds until test(running, waiting) holds; AssertionError after `seconds`."""
        start = time.monotonic()
        while True:
            load = self.load()
            took = time.monotonic() - start
            if test(*load):
                return took
            assert took < seconds, f"running, waiting = {load} after {took:.1f} s"
            time.sleep(0.01)

    def wait_idle(self, seconds=None):
        return self.wait_load(lambda running, waiting: running + waiting == 0, seconds or LONG)

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def log_lines(self):
        """All of the log but a line that is just being written."""
        return self.log_path.read_text(errors="replace").rpartition("\n")[0].splitlines()

    def stop(self, signal_number=signal.SIGTERM, seconds=30 * TIME_FACTOR):
        """Ends it and returns its exit status; kills it and fails when it does not end."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal_number)
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not end within {seconds} s of the signal:\n{self.log_text()}") from None
        finally:
            self.log.close()
            self.last_log = self.log_text()
            self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        status = self.stop()
        if kind is None:
            assert status == 0, f"exit status {status}:\n{self.last_log}"


def yaml_text(settings, indent=0):
    """Nested dictionaries of scalars as YAML; enough for the settings and free of a dependency."""
    out = ""
    for key, value in settings.items():
        pad = " " * indent
        if isinstance(value, dict):
            out += f"{pad}{key}:\n{yaml_text(value, indent + 2)}"
        elif isinstance(value, list):
            out += f"{pad}{key}:\n" + "".join(f"{pad}  - {json.dumps(v)}\n" for v in value)
        else:
            out += f"{pad}{key}: {json.dumps(value)}\n"
    return out


def words(n, seed=1):
    """n words of sense-free prose, about 1.3 tokens each; another seed, another text."""
    nouns = ("river stone lamp garden window letter engine harbour winter paper copper valley market bridge candle "
             "mirror forest island wheel button").split()
    verbs = "holds turns keeps finds leaves meets opens closes brings draws".split()
    x, out = seed * 7919 + 1, []
    for i in range(n):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        word = nouns[(x >> 16) % 20] if i % 2 == 0 else verbs[(x >> 16) % 10]
        out.append(word + (".\n" if i % 12 == 11 else ""))
    return " ".join(out)


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


# Learning rates whose outcome the guard discards: one that ruins what was learned, one that gains nothing. A model of
# random weights gains by any training, so the first needs the real one.
DISCARDED = [pytest.param(1e-3, marks=pytest.mark.real_model), 1e-9]


def text_of(events):
    """The answer's text of a stream's events."""
    out = ""
    for e in events:
        if isinstance(e, dict):
            for choice in e.get("choices", []):
                out += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return out
