"""load_server.py - `qttt serve` as a child: started on a free port, its memory and metrics read, ended with its status.

Standard library only."""
import contextlib
import http.client
import os
import pathlib
import signal
import subprocess
import tempfile
import time


class Server:
    """flags: more of the command line; settings: the text of a config file. Its log goes to `log`, or nowhere; its state
    into a folder that goes with it, unless the flags name another."""

    def __init__(self, binary, model, *flags, settings=None, log=None, seconds=120):
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-load-")
        home = pathlib.Path(self.folder.name)
        port_file = home / "port"
        command = [str(binary), "serve", "--model", str(model), "--host", "127.0.0.1", "--port", "0",
                   "--port-file", str(port_file), *map(str, flags)]
        if "--state-dir" not in flags:
            command += ["--state-dir", str(home / "state")]
        if settings is not None:
            (home / "qttt.yaml").write_text(settings)
            command += ["--config", str(home / "qttt.yaml")]
        out = open(log, "wb") if log else subprocess.DEVNULL
        # Signals stay as Python has them: SIGXFSZ is ignored, so that a limit on file sizes fails writes and kills nobody.
        self.process = subprocess.Popen(command, stdout=out, stderr=out, restore_signals=False,
                                        env={"GOMP_SPINCOUNT": "1000", **os.environ})
        if log:
            out.close()
        self.host = "127.0.0.1"
        try:
            self.port = int(self.wait(lambda: port_file.exists() and port_file.read_text().strip(), seconds))
            self.wait(lambda: self.get("/readyz")[0] == 200, seconds)
        except BaseException:
            self.kill()
            raise

    def wait(self, test, seconds):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if value := test():
                    return value
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"load: the server does not start (status {self.process.poll()})")
            time.sleep(0.02)

    def get(self, path):
        return fetch(self.host, self.port, path)

    def resident(self):
        """Bytes of its own memory; the model's file is shared with the page cache."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, seconds=60):
        """SIGTERM; its exit status, None when it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def fetch(host, port, path, timeout=30):
    """(status, body as text) of a GET."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metrics(host, port):
    """{name with its labels: value}, and {name: value} of the same without labels."""
    out = {}
    for line in fetch(host, port, "/metrics")[1].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            out[name] = float(value)
            out.setdefault(name.partition("{")[0], float(value))
    return out


def is_idle(m):
    """Whether nothing runs and nothing waits, by its metrics."""
    return not any(m[name] for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "qttt_jobs_running",
                                        "qttt_jobs_queued"))
