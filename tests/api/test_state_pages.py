"""Contexts' keys and values on disk: a context that the server before it has read comes back without being read again, and what
is damaged is read again, with a warning and the same answer. Needs no session to outlive the server: pages are found by content.
"""
import pathlib
import signal

import pytest

import harness
from harness import Server, words

PATH = "/v1/sessions"
SYSTEM = {"role": "system", "content": "The harbour's code word is marzipan. " + words(1100, seed=11)}


def counted(server, name):
    return server.metrics()[(name, ())]


def open_session(server):
    r = server.post(PATH, {"messages": [SYSTEM]})
    assert r.status == 201, r.body
    session = r.json()
    session = server.until(f"{PATH}/{session['id']}", lambda s: s["status"] not in ("queued", "prefilling", "restoring"))
    assert session["status"] == "ready", session
    return session


def answer(server, session):
    """Tokens with their log-probabilities, and how many tokens of the prompt were not run."""
    r = server.post("/v1/chat/completions", {
        "messages": [SYSTEM, {"role": "user", "content": "What is the code word?"}], "temperature": 0, "max_tokens": 12,
        "logprobs": True}, headers={"x-session-id": session["id"]})
    assert r.status == 200, r.body
    body = r.json()
    tokens = [(t["token"], t["logprob"]) for t in body["choices"][0]["logprobs"]["content"]]
    return tokens, body["usage"]["prompt_tokens_details"]["cached_tokens"]


def wait_for_runs(server, n):
    harness.until(lambda: counted(server, "qttt_page_runs") >= n, told=server.log_text)


@pytest.fixture(scope="module")
def left(tmp_path_factory, small_model):
    """A folder with a context's pages, its size in tokens, and what a server that had it in memory answered."""
    folder = tmp_path_factory.mktemp("state")
    with Server("--state-dir", str(folder), model=small_model) as s:
        session = open_session(s)
        whole = session["context_tokens"] // 64 * 64
        assert whole > 1024, "two runs"
        wait_for_runs(s, 2)
        assert counted(s, "qttt_pages_written_bytes_total") > 0 and counted(s, "qttt_restored_tokens_total") == 0
        tokens, cached = answer(s, session)
        assert cached >= whole
        assert s.stop(signal.SIGKILL) == -signal.SIGKILL
        s.stop = lambda: 0  # it has ended
    return folder, whole, tokens


def runs(folder):
    return sorted(pathlib.Path(folder).glob("pages/*/*.run"))


def test_a_context_comes_back_after_kill(left, small_model):
    folder, whole, tokens = left
    assert len(runs(folder)) == 2
    with Server("--state-dir", str(folder), model=small_model) as s:
        session = open_session(s)
        assert counted(s, "qttt_restored_tokens_total") == whole
        assert counted(s, "qttt_prompt_tokens_total") < 128, "only the rest was run"
        assert answer(s, session)[0] == tokens, "bit for bit"
        assert counted(s, "qttt_page_runs_corrupt_total") == 0


def test_a_damaged_run_is_computed_again_with_a_warning(left, small_model):
    folder, whole, tokens = left
    for path in runs(folder):
        with open(path, "r+b") as f:
            f.seek(path.stat().st_size // 2)
            byte = f.read(1)
            f.seek(-1, 1)
            f.write(bytes([byte[0] ^ 4]))
    with Server("--state-dir", str(folder), model=small_model) as s:
        session = open_session(s)
        assert answer(s, session)[0] == tokens
        assert counted(s, "qttt_page_runs_corrupt_total") >= 1
        assert "will be recomputed" in s.log_text()
        assert counted(s, "qttt_restored_tokens_total") < whole


def test_another_type_of_keys_and_values_uses_none_of_them(left, small_model):
    folder = left[0]
    assert runs(folder)
    with Server("--state-dir", str(folder), "--kv-type", "f32", model=small_model) as s:
        open_session(s)
        assert counted(s, "qttt_restored_tokens_total") == 0
        assert "another model or build" in s.log_text()


def test_pages_of_one_byte_come_back_and_train(tmp_path, small_model):
    """kv_type q8: about half the memory; its pages survive a restart bit for bit, and a session can be adapted over them."""
    folder = tmp_path / "state"
    with Server("--state-dir", str(tmp_path / "other"), model=small_model) as s:
        bf16 = counted(s, "qttt_kv_bytes") / counted(s, "qttt_kv_pages")
    with Server("--state-dir", str(folder), "--kv-type", "q8", model=small_model) as s:
        page = counted(s, "qttt_kv_bytes") / counted(s, "qttt_kv_pages")
        assert bf16 / 2 < page < bf16 * 0.7
        session = open_session(s)
        wait_for_runs(s, 2)
        tokens, cached = answer(s, session)
        assert cached >= session["context_tokens"] // 64 * 64
    with Server("--state-dir", str(folder), "--kv-type", "q8", model=small_model) as s:
        session = open_session(s)
        assert counted(s, "qttt_restored_tokens_total") == session["context_tokens"] // 64 * 64
        assert answer(s, session)[0] == tokens, "bit for bit"
        r = s.post("/v1/chat/completions", {
            "messages": [SYSTEM, {"role": "user", "content": "What is the code word?"}], "temperature": 0, "max_tokens": 2,
            "qttt": {"mode": "on", "steps": 2, "span_tokens": 32}})
        q = r.json()["qttt"]
        assert q["status"] == "succeeded" and q["steps_done"] == 2 and q["delta_norm_relative"] > 0
    with Server("--state-dir", str(folder), model=small_model) as s:
        open_session(s)
        assert counted(s, "qttt_restored_tokens_total") == 0


def test_an_evicted_session_is_on_disk_until_it_is_used(tmp_path, small_model):
    with Server("--state-dir", str(tmp_path / "a"), model=small_model) as s:
        page = counted(s, "qttt_kv_bytes") / counted(s, "qttt_kv_pages")
    with Server("--state-dir", str(tmp_path / "b"), "--kv-size", str(int(34 * page)), model=small_model) as s:
        session = open_session(s)
        assert session["resident"] == "device" and session["kv_bytes"] > 1024 / 64 * page
        wait_for_runs(s, 2)
        tokens, _ = answer(s, session)
        other = s.post("/v1/completions", {"prompt": words(1300, seed=12), "max_tokens": 1})
        assert other.status == 200, other.body
        session = s.get(f"{PATH}/{session['id']}").json()
        assert session["resident"] == "disk" and session["status"] == "ready", session
        again, cached = answer(s, session)
        assert again == tokens and cached >= session["context_tokens"] // 64 * 64
        assert s.get(f"{PATH}/{session['id']}").json()["resident"] == "device"
        assert counted(s, "qttt_restored_tokens_total") > 0


def test_without_state_nothing_is_written(tmp_path, small_model):
    with Server("--state-dir", "none", model=small_model, env={"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}) as s:
        open_session(s)
        assert counted(s, "qttt_pages_written_bytes_total") == 0
    assert list(tmp_path.iterdir()) == []
