#!/usr/bin/env python3
"""bench_http.py - the figures of a server under load, as clients and probes see it: /livez at saturation, memory of
streams that wait, how soon the engine stops for a client that has left. Standard library only.

bench_http.py --binary build/server/qttt --model FILE [--json build/bench.json]: adds its figures to the file's."""
import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time


class Server:
    def __init__(self, binary, model, *flags):
        self.folder = tempfile.TemporaryDirectory()
        port_file = pathlib.Path(self.folder.name) / "port"
        self.process = subprocess.Popen(
            [binary, "serve", "--model", model, "--host", "127.0.0.1", "--port", "0", "--port-file", port_file,
             "--log-level", "error", "--state-dir", f"{self.folder.name}/state", *flags], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not port_file.exists() or not port_file.read_text().strip():
            if time.monotonic() > end or self.process.poll() is not None:
                raise SystemExit("bench_http: the server does not start")
            time.sleep(0.02)
        self.port = int(port_file.read_text())
        while self.get("/readyz")[0] != 200:
            time.sleep(0.02)

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def get(self, path, s=None):
        """(status, body) over s, which stays open."""
        own = s or self.connect()
        own.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += own.recv(65536)
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += own.recv(65536)
        if s is None:
            own.close()
        return int(head.split()[1]), body.decode()

    def metric(self, name):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                return float(line.rsplit(" ", 1)[1])
        raise SystemExit(f"bench_http: no metric {name}")

    def stream(self, n_tokens, max_tokens, salt=""):
        """A socket on which a streamed answer has been asked for; a word of the prompt is about four tokens."""
        text = salt + " ".join(f"word{i % 977}" for i in range(n_tokens // 4))
        body = json.dumps({"prompt": text, "max_tokens": max_tokens, "stream": True, "temperature": 0,
                           "ignore_eos": True}).encode()
        s = self.connect()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def resident(self):
        """Bytes of its own memory; the model's file is shared with the page cache."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.folder.cleanup()


def headers_of(s):
    data = b""
    while b"\r\n\r\n" not in data:
        got = s.recv(65536)
        if not got:
            raise SystemExit("bench_http: a stream was closed")
        data += got
    if b" 200 " not in data.split(b"\r\n", 1)[0]:
        raise SystemExit(f"bench_http: {data!r}")


def swallow(s):
    """Reads a stream for good, so that its backlog does not grow."""
    def run():
        try:
            while s.recv(65536):
                pass
        except OSError:
            pass
    threading.Thread(target=run, daemon=True).start()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def livez_at_saturation(server, seconds):
    streams = [server.stream(60, 4000, f"{i} ") for i in range(8)]
    streams += [server.stream(6000, 1, "long ")]
    for s in streams:
        headers_of(s)
        swallow(s)
    times, probe = [], server.connect()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        t0 = time.monotonic()
        status, _ = server.get("/livez", probe)
        times.append(time.monotonic() - t0)
        if status != 200:
            raise SystemExit(f"bench_http: /livez answers {status}")
        time.sleep(0.005)
    if server.metric("vllm:num_requests_running") < 8:
        raise SystemExit("bench_http: the server was not saturated")
    for s in streams:
        s.close()
    idle(server)
    return [("livez at saturation, p50", 1e3 * percentile(times, 0.5), "ms"),
            ("livez at saturation, p99", 1e3 * percentile(times, 0.99), "ms")]


def idle(server):
    while server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") > 0:
        time.sleep(0.002)


def waiting_streams(server, n):
    """The server answers one at a time: all but the first wait."""
    for i in range(2):  # every K/V page and buffer has been touched
        s = server.stream(1900, 1, f"{i} ")
        data = b""
        while b"[DONE]" not in data:
            data = data[-16:] + s.recv(65536)
        s.close()
    first = server.stream(60, 1900)
    headers_of(first)
    swallow(first)
    warm = [server.stream(200, 8, f"warm {i} ") for i in range(8)]  # what a first use allocates for good
    for s in warm:
        headers_of(s)
    before = server.resident()
    streams = [server.stream(200, 8, f"{i} ") for i in range(n)]
    for s in streams:
        headers_of(s)
    after = server.resident()
    if server.metric("vllm:num_requests_waiting") < n:
        raise SystemExit("bench_http: the streams did not wait")
    for s in [first, *warm, *streams]:
        s.close()
    idle(server)
    return [(f"memory of each of {n} waiting streams", (after - before) / n / 1024, "KiB")]


def leaving(server, times):
    seconds = []
    for i in range(times):
        s = server.stream(6000, 50, f"leaver {i} ")
        headers_of(s)
        while server.metric("vllm:num_requests_running") == 0:
            time.sleep(0.002)
        time.sleep(0.2)
        t0 = time.monotonic()
        s.close()
        idle(server)
        seconds.append(time.monotonic() - t0)
    return [("client disconnects, engine stops", 1e3 * percentile(seconds, 0.5), "ms"),
            ("client disconnects, engine stops, worst", 1e3 * max(seconds), "ms")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--json")
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    figures = []

    def add(new):
        for name, value, unit in new:
            figures.append({"name": name, "value": value, "unit": unit})
            print(f"{name:<40} {value:10.2f} {unit}", flush=True)

    server = Server(args.binary, args.model)
    add(livez_at_saturation(server, args.seconds))
    add(leaving(server, 5))
    server.stop()
    server = Server(args.binary, args.model, "--max-running", "1", "--max-requests", "400",
                    "--max-context", "2048", "--kv-size", "48MiB")
    add(waiting_streams(server, 200))
    server.stop()
    if args.json and os.path.exists(args.json):
        report = json.loads(pathlib.Path(args.json).read_text())
        report["http"] = figures
        pathlib.Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
