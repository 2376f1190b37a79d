"""Fixtures: one server for most tests, the openai client on it, and a check after each test that it is idle and alive; and after
all of them, that every path and status of openapi.yaml was seen by one.

pytest-xdist spreads the files over workers, each with servers of its own: the tests wait more than they compute."""
import contextlib
import pathlib
import subprocess
import sys

import httpx
import openai
import pytest

import harness
import spec

# Short, so that tests of silence and of a full queue do not take long.
SETTINGS = {"stream": {"heartbeat_seconds": 1}, "limits": {"max_requests": 8}}
# One answer at a time: what waits, and for how long, is known.
NARROW = {**SETTINGS, "sched": {"max_running": 1}}


# A failure of the server itself is provoked where a disk or memory fails, at a moment of its own; /livez says no
# only when the engine hangs, which test_service.py can only do where a child may be traced.
NOT_PROVOKED = {row for row in spec.documented() if row[2] == 500} | {("/livez", "get", 503)}
# Files; when fewer ran, it was a part, of which nothing can be said. One (test_proxy_rules.py) is skipped as a whole under a sanitizer.
WHOLE = len(list(pathlib.Path(__file__).parent.glob("test_*.py"))) - 1
files, missing = set(), []
# Files are dealt out in this order, those that take longest first, so that in the end no worker waits long for another; the
# others follow as they come.
LONGEST = [f"test_{name}.py" for name in (
    "state_jobs", "session_jobs", "reload", "stream", "session_adapters", "state_sessions", "hostile", "session_turns", "service",
    "cancel", "proxies", "qttt", "jobs", "ops", "malicious", "kill", "samples", "proxy_restart", "state_pages", "chat", "time")]


def pytest_configure(config):
    config.addinivalue_line("markers", "real_model: looks at what a trained model answers")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if harness.MODEL != harness.REAL_MODEL:
        skip = pytest.mark.skip(reason=f"{pathlib.Path(harness.MODEL).name} is not the model whose answers are known")
        for item in items:
            if item.get_closest_marker("real_model"):
                item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    spec.SEEN.update(map(tuple, getattr(node, "workeroutput", {}).get("seen", [])))


def pytest_runtest_logreport(report):
    files.add(report.nodeid.split("::")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker tells its controller
        session.config.workeroutput["seen"] = sorted(map(list, spec.SEEN))
    elif len(files) >= WHOLE:
        missing.extend(sorted(set(spec.documented()) - spec.SEEN - NOT_PROVOKED))
        if missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for path, method, status in missing:
        terminalreporter.write_line(f"FAILED openapi.yaml: no test saw {method.upper()} {path} answer {status}")


@pytest.fixture(scope="session")
def server():
    with harness.Server(settings=SETTINGS) as s:
        yield s


@pytest.fixture(scope="session")
def narrow():
    with harness.Server(settings=NARROW) as s:
        yield s


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A model of random weights, quick to start and to answer, where the text does not matter; or the one that was given."""
    if harness.MODEL != harness.REAL_MODEL:
        return harness.MODEL
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    subprocess.run([sys.executable, harness.ROOT / "tests/tools/small_model.py", harness.MODEL, path], check=True)
    return path


@pytest.fixture(autouse=True)
def leaves_server_usable(request):
    yield
    for name in {"server", "narrow"} & set(request.fixturenames):
        s = request.getfixturevalue(name)
        assert s.process.poll() is None, f"the server died:\n{s.log_text()}"
        s.wait_idle()


def checked_client(port, **kw):
    """The openai client whose plain answers are checked against openapi.yaml on their way (streams are checked raw)."""

    def check(response):
        if "text/event-stream" not in response.headers.get("content-type", ""):
            response.read()
            spec.check(response.request.method, response.request.url.raw_path.decode(),
                       harness.Response(response.status_code, {k.lower(): v for k, v in response.headers.items()},
                                        response.content))

    http = httpx.Client(event_hooks={"response": [check]}, timeout=harness.LONG)
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", http_client=http, max_retries=0, **kw)


@pytest.fixture(scope="session")
def client(server):
    with contextlib.closing(checked_client(server.port)) as c:
        yield c


@pytest.fixture(scope="session")
def name(server):
    """The model's name, without the alias."""
    return server.get("/v1/models").json()["data"][0]["id"]
