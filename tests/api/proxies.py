"""Runs nginx, HAProxy and Envoy with the files of docker/, and stands in for the servers behind them where a test has to see, or
to spoil, what a proxy sends."""
import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import uuid

import yaml

import harness

DOCKER = harness.ROOT / "docker"
# Debian has no Envoy; its program comes as a Python package, into the environment that runs this.
PROGRAMS = {"nginx": "/usr/sbin/nginx", "haproxy": "/usr/sbin/haproxy",
            "envoy": str(pathlib.Path(sys.executable).with_name("envoy"))}
# A sanitizer looks at the servers, to which one proxy is as good as another.
KINDS = list(PROGRAMS) if harness.TIME_FACTOR == 1 else ["nginx"]
# Keys of sessions, short, long and as proxies make them.
KEYS = ["a", "7", "user_7", "A-b_3", "0" * 64, *(str(uuid.UUID(int=i * 7919 << 64)) for i in range(12))]
NGINX_MODULE = "/usr/lib/nginx/modules/ngx_http_js_module.so"


def missing(kind):
    """Why this proxy cannot run here, or None."""
    if not shutil.which(PROGRAMS[kind]):
        return f"{kind} is not installed"
    if kind == "nginx" and not pathlib.Path(NGINX_MODULE).exists():
        return "libnginx-mod-http-js is not installed"
    return None


def envoy_here(port, nodes, idle):
    """docker/envoy.yaml with other addresses and another bound of silence, which it has no variables for."""
    config = yaml.safe_load((DOCKER / "envoy.yaml").read_text())
    listener = config["static_resources"]["listeners"][0]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["stream_idle_timeout"] = f"{idle}s"
    for cluster in config["static_resources"]["clusters"]:
        endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        for endpoint, node in zip(endpoints, nodes, strict=True):
            host, _, port = node.rpartition(":")
            endpoint["endpoint"]["address"]["socket_address"] = {"address": host, "port_value": int(port)}
    return config


class Proxy:
    """One proxy before two nodes ("host:port"); idle: after how many seconds of silence it gives up."""

    def __init__(self, kind, nodes, idle=30):
        self.kind = kind
        self.port = harness.free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-proxy-")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        env = {**os.environ, "QTTT_LISTEN": f"127.0.0.1:{self.port}", "QTTT_NODE_1": nodes[0], "QTTT_NODE_2": nodes[1],
               "QTTT_IDLE": f"{int(idle * 1000)}ms", "QTTT_CONF": str(DOCKER), "QTTT_RUN": self.folder.name,
               "QTTT_USER": pwd.getpwuid(os.getuid()).pw_name, "QTTT_WORKERS": "1"}
        if kind == "envoy":
            config = pathlib.Path(self.folder.name) / "envoy.yaml"
            config.write_text(yaml.safe_dump(envoy_here(self.port, nodes, idle)))
            command = [PROGRAMS[kind], "-c", str(config), "--concurrency", "1", "--log-level", "warning",
                       "--base-id", str(self.port)]
        elif kind == "nginx":
            config = pathlib.Path(self.folder.name) / "nginx.conf"
            config.write_bytes(subprocess.run([DOCKER / "render.sh", DOCKER / "nginx.conf"], env=env, check=True,
                                              capture_output=True).stdout)
            command = [PROGRAMS[kind], "-e", "stderr", "-c", str(config), "-g", "daemon off;"]
        else:
            command = [PROGRAMS[kind], "-db", "-f", str(DOCKER / "haproxy.cfg")]
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=env)
        harness.until(self.answers, told=self.log_text)

    def answers(self):
        assert self.process.poll() is None, self.log_text()
        with contextlib.suppress(OSError):
            return self.request("GET", "/metrics").status == 404
        return False

    def connect(self, timeout=harness.LONG):
        return harness.Connection(self.port, timeout)

    def request(self, method, path, body=None, headers=None, checked=False):
        """checked: a node answers, so the answer is one of openapi.yaml's."""
        with self.connect() as c:
            c.send(harness.encode(method, path, body, {"Connection": "close", **(headers or {})}))
            return c.response(method, path if checked else None)

    def log_text(self):
        return self.log_path.read_text(errors="replace")[-8000:]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20 * harness.TIME_FACTOR)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.connections.append(self.connection)
        with contextlib.suppress(OSError, ValueError, IndexError):
            while self.one():
                pass

    def one(self):
        """One request; False: the connection is over."""
        line = self.rfile.readline().decode("latin-1").split()
        headers = {}
        while (h := self.rfile.readline().decode("latin-1").strip()):
            name, _, value = h.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        node = self.server.node
        if line[1] == "/readyz":
            node.refusals += not node.ready
            return self.answer(200 if node.ready else 503, "{}")
        node.seen.append((line[0], line[1], headers, body))
        reply = node.script(line[0], line[1])
        return reply is not None and self.answer(*reply)

    def answer(self, status, text):
        self.wfile.write(f"HTTP/1.1 {status} Stub\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
                         f"{text}".encode())
        return True


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class StubNode:
    """A server that only says what it is told to. seen: (method, target, headers, body) of every request but probes;
    refusals: probes that were told that it is not ready.
    script(method, target): (status, text) to answer, or None to hang up without a word."""

    def __init__(self, name):
        self.name, self.port = name, harness.free_port()
        self.seen, self.ready, self.listener = [], True, None
        self.reset()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def reset(self):
        self.seen.clear()
        self.ready, self.refusals = True, 0
        self.script = lambda method, target: (200, '{"node":"%s"}' % self.name)
        if self.listener is None:
            self.listen()

    def listen(self):
        self.listener = _Listener(("127.0.0.1", self.port), _Handler)
        self.listener.node, self.listener.connections = self, []
        threading.Thread(target=self.listener.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        """As when its process ends: open connections are closed, new ones refused."""
        if self.listener is not None:
            self.listener.shutdown()
            self.listener.server_close()
            for c in self.listener.connections:
                with contextlib.suppress(OSError):
                    c.shutdown(socket.SHUT_RDWR)
            self.listener = None


def raw(port, data, seconds=None):
    """All that comes back for these bytes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds or harness.LONG) as s:
        s.sendall(data)
        out = b""
        while piece := s.recv(65536):
            out += piece
        return out
