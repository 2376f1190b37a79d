"""A server that ends and starts again on the same state.dir."""
import contextlib
import signal
import tempfile

import harness

JOBS, SESSIONS, CHAT = "/v1/qttt/jobs", "/v1/sessions", "/v1/chat/completions"


@contextlib.contextmanager
def state_dir():
    with tempfile.TemporaryDirectory(prefix="qttt-state-") as folder:
        yield f"{folder}/state"


class Restarting:
    """with Restarting(dir) as s: s.server is the one that runs; s.again(signal) ends it and starts the next."""

    def __init__(self, folder, settings=None, model=None, **kw):
        self.folder, self.settings, self.kw = folder, settings, kw
        self.model = model or harness.MODEL
        self.begin()

    def begin(self):
        self.server = harness.Server("--state-dir", str(self.folder), settings=self.settings, model=self.model, **self.kw)
        return self.server

    def end(self, how=signal.SIGKILL):
        status = self.server.stop(how)
        assert status == (0 if how == signal.SIGTERM else -how), self.server.last_log

    def again(self, how=signal.SIGKILL):
        self.end(how)
        return self.begin()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if not self.server.log.closed:
            self.end()

    def get(self, path):
        r = self.server.get(path)
        assert r.status == 200, (path, r.status, r.body)
        return r.json()

    def post(self, path, body, status=200, **kw):
        r = self.server.post(path, body, **kw)
        assert r.status == status, (path, r.status, r.body)
        return r.json()

    def wait_for(self, path, test, seconds=None):
        return harness.until(lambda: self.get(path), test, seconds or harness.LONG, every=0.01)

    def job(self, job, test=lambda j: j["status"] in harness.ENDED):
        """The job as soon as test(job) holds."""
        return self.wait_for(f"{JOBS}/{job['id']}", test)

    def events(self, job):
        return self.get(f"{JOBS}/{job['id']}/events?limit=1000")["data"]
