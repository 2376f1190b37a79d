"""State on a file system that really is full, or may only be read: a small one in memory is mounted for it. What single calls
that fail do: test_faults.py."""
import errno
import subprocess
import time

import pytest

import harness
from harness import Server, words

SESSIONS = "/v1/sessions"
CONTEXT = {"messages": [{"role": "system", "content": words(90, seed=3)}]}


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if r.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {r.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as f, pytest.raises(OSError) as full:
        while True:  # the last that succeeds comes short
            f.write(bytes(65536))
    assert full.value.errno == errno.ENOSPC


def wait_state(server, state):
    ready = harness.until(lambda: server.get("/readyz"), lambda r: r.status != 200 or r.json()["state"] == state,
                          told=server.log_text)
    assert ready.status == 200, (ready.body, server.log_text())
    return ready.json()


def create(server):
    r = server.post(SESSIONS, CONTEXT)
    assert r.status == 201, r.body
    return r.json()


def test_a_full_disk(disk, small_model):
    with Server("--state-dir", str(disk / "state"), model=small_model) as server:
        kept = create(server)
        assert kept["durable"] is True
        fill(disk)
        refused, deadline = 0, time.monotonic() + harness.LONG
        while (r := server.post(SESSIONS, CONTEXT)).status != 201 or r.json()["durable"]:  # SQLite's log may have room left
            if r.status != 201:
                assert r.status == 500 and r.json()["error"]["code"] == "state_unavailable", r.body
                refused += 1
            assert time.monotonic() < deadline, server.log_text()
        assert refused <= 3, "it goes on in memory"
        assert wait_state(server, "degraded")["state_message"]
        assert "going on in memory only" in server.log_text()
        in_memory = r.json()["id"]
        assert server.get(f"{SESSIONS}/{kept['id']}").json()["id"] == kept["id"]
        (disk / "filler").unlink()
        wait_state(server, "durable")
        assert server.get(f"{SESSIONS}/{in_memory}").json()["durable"] is True
    with Server("--state-dir", str(disk / "state"), model=small_model) as server:
        for ses in (kept["id"], in_memory):
            assert server.get(f"{SESSIONS}/{ses}").status == 200, server.log_text()


def test_a_disk_that_may_only_be_read(disk, small_model):
    """It starts, serves, and says so; when it may write again, it does."""
    (disk / "state").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with Server("--state-dir", str(disk / "state"), model=small_model) as server:
        assert wait_state(server, "degraded")["state_message"]
        ses = create(server)
        assert ses["durable"] is False
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        wait_state(server, "durable")
        assert server.get(f"{SESSIONS}/{ses['id']}").json()["durable"] is True
    with Server("--state-dir", str(disk / "state"), model=small_model) as server:
        assert server.get(f"{SESSIONS}/{ses['id']}").status == 200
