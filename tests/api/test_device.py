"""model.device: what is chosen and said, a GPU's memory that is too small, a GPU that fails. The GPU is the CPU, behind a CUDA
module of the tests (tests/unit/gpu_module.c); at the end the real kernels on the emulated device (tests/cuemu)."""
import os
import pathlib
import subprocess

import pytest

import harness
from harness import ROOT, Server, chat

MODULE = os.environ.get("QTTT_GPU_MODULE", str(ROOT / "build/tests/unit/gpu_module.so"))
EMULATED = os.environ.get("QTTT_CUEMU_MODULE", "")
TINY = pathlib.Path(os.environ.get("QTTT_TINY_MODELS", ROOT / "build/tests/golden/tiny")) / "llama.gguf"
GPU = ("--device", "cuda", "--cuda-module", MODULE)
MEMORY = {"GPU_MEMORY": str(1 << 30)}
EXIT_DEVICE, EXIT_LOST = 3, 4


def on_gpu(model, *flags, env=None, **kw):
    return Server(*GPU, *flags, model=model, env={**MEMORY, **(env or {})}, **kw)


def command(name, *flags, env=None):
    """Runs a command to its end: (status, stdout, stderr)."""
    r = subprocess.run([harness.BINARY, name, *map(str, flags)], capture_output=True, text=True, timeout=harness.LONG,
                       env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout, r.stderr


def commands(model):
    """The beginning of each command that opens an engine."""
    return [("serve", "--port", "0", "--model", model), ("run", "--model", model, "--prompt-file", "-"), ("bench", "--model", model),
            ("inspect", model)]


# ---- the choice ----

def test_a_gpu_that_is_not_there_ends_every_command_with_one_sentence(small_model):
    for words in commands(small_model):
        for flags, says in (((*GPU, ), "no CUDA-capable device is detected"),
                            (("--device", "cuda:1", "--cuda-module", "/nowhere/module.so"), "/nowhere/module.so")):
            status, _, err = command(*words, *flags, env={"GPU_DEVICES": "0"})
            assert status == EXIT_DEVICE and says in err, (words, status, err)
            sentences = [line for line in err.splitlines() if "device cpu" not in line]
            assert len(sentences) == 1 and sentences[0].startswith("qttt"), err


def test_choices_that_make_no_sense_are_usage(small_model):
    for flags, says in ((("--device", "gpu"), "expected auto, cpu, cuda or cuda:N"), ((*GPU, "--isa", "avx2"), "model.isa"),
                        ((*GPU, "--kv-type", "f32"), "model.kv_type")):
        status, _, err = command("serve", "--port", "0", "--model", small_model, *flags)
        assert status == 2 and says in err, (flags, err)


def test_auto_says_what_it_took_and_why(small_model):
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has an NVIDIA driver")
    with Server(model=small_model) as s:
        assert "device cpu: no sign of an NVIDIA driver" in s.log_lines()[0] + s.log_lines()[1]
        assert not any("cublas" in line or "cudart" in line for line in open(f"/proc/{s.process.pid}/maps"))
    with Server("--cuda-module", MODULE, model=small_model, env={"GPU_DEVICES": "2", "GPU_DEAF": "0"}) as s:
        assert "device cuda:1: Pretended GPU 1 (sm_90" in s.log_text()
        assert s.metrics()["qttt_device_info", (("compute", "9.0"), ("device", "cuda:1"), ("driver", "13.0"), ("kernels", "cuda"),
                                                ("name", "Pretended GPU 1"), ("runtime", "13.0"))] == 1
    with Server("--cuda-module", MODULE, "--device", "cpu", model=small_model) as s:
        assert "device cpu: model.device says so" in s.log_text()
        device = s.get("/v1/admin/state").json()["device"]
        assert device["name"] == "cpu" and device["gpu"] is None
    with Server("--cuda-module", MODULE, model=small_model, env={"GPU_DEVICES": "0"}) as s:
        assert any("device cpu: no CUDA device" in line and "warn" in line.lower() for line in s.log_lines())


def test_a_gpu_answers_as_the_cpu_does(small_model):
    body = chat("Tell of a river.", max_tokens=24, temperature=0)
    with Server("--device", "cpu", model=small_model) as s:
        want = s.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    with on_gpu(small_model, "--kv-size", "64MiB") as s:
        assert s.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"] == want
        gpu = s.get("/v1/admin/state").json()["device"]["gpu"]
        assert gpu["name"] == "Pretended GPU 0" and gpu["memory_bytes"] == 1 << 30
        assert 0 < gpu["free_bytes"] < (1 << 30) - (64 << 20) + (1 << 20)
        found = {name: value for (name, _), value in s.metrics().items()}
        assert found["qttt_device_memory_bytes"] == 1 << 30 and found["qttt_device_reclaims_total"] == 0
        assert 0 < found["qttt_device_free_memory_bytes"] < 1 << 30


def test_run_on_a_gpu(small_model, tmp_path):
    (tmp_path / "prompt").write_text("Tell of a river.")
    words = ("run", "--model", small_model, "--prompt-file", tmp_path / "prompt", "--max-tokens", 8)
    status, out, err = command(*words, *GPU, env=MEMORY)
    assert status == 0 and "device cuda:0: Pretended GPU 0" in err, err
    assert out == command(*words, "--device", "cpu")[1] != ""


# ---- its memory ----

def test_a_pool_that_does_not_fit_gets_smaller(small_model):
    with on_gpu(small_model, "--kv-size", "900MiB", env={"GPU_MEMORY": str(400 << 20)}) as s:
        assert "MiB that it should have: no device memory for" in s.log_text(), s.log_text()
        found = {name: value for (name, _), value in s.metrics().items()}
        assert 100 << 20 < found["qttt_kv_bytes"] < 400 << 20


def test_memory_that_is_short_costs_one_request_at_a_time(small_model, tmp_path):
    scratch = tmp_path / "scratch"
    body = chat("Tell of a river.", max_tokens=8, temperature=0)
    with on_gpu(small_model, "--kv-size", "64MiB", env={"GPU_SCRATCH": str(scratch)}) as s:
        want = s.post("/v1/chat/completions", body).json()["choices"]
        scratch.write_text("-1")
        r = s.post("/v1/chat/completions", chat("Another one.", max_tokens=8, temperature=0))
        assert r.status == 429 and r.json()["error"]["code"] == "capacity" and int(r.headers["retry-after"]) > 0
        scratch.unlink()
        assert s.post("/v1/chat/completions", body).json()["choices"] == want


# ---- its failure ----

def test_a_failed_device_ends_the_process_and_its_sessions_come_back(small_model, tmp_path):
    broken = tmp_path / "broken"
    env = {**MEMORY, "GPU_BREAK": str(broken)}
    flags = ("--state-dir", str(tmp_path / "state"), "--kv-size", "64MiB")
    ask = {"append": True, "messages": [{"role": "user", "content": "What is it of?"}], "max_tokens": 8, "temperature": 0,
           "session_id": "ses_kept"}
    s = on_gpu(small_model, *flags, env=env)
    r = s.post("/v1/sessions", {"messages": [{"role": "user", "content": harness.words(200)}]}, headers={"x-session-id": "kept"})
    assert r.status in (200, 201), r.body
    s.wait_idle()
    with s.connect() as stream, s.connect() as open_request:
        stream.send(harness.encode("POST", "/v1/chat/completions", chat("Go on.", max_tokens=4000, stream=True, ignore_eos=True)))
        assert stream.head()[0] == 200
        events = stream.events()
        next(e for e in events if isinstance(e, dict))
        # a request that is not whole yet keeps the process for the moment in which /livez is asked
        open_request.send(harness.encode("POST", "/v1/chat/completions", chat("x"))[:-3])
        broken.write_text("")
        last = [e for e in events if isinstance(e, dict)][-1]
        assert last["error"]["code"] == "device_failure" and "illegal memory access" in last["error"]["message"]
        live = s.get("/livez")
        assert live.status == 503 and "illegal memory access" in live.json()["status"]
        refused = s.post("/v1/chat/completions", chat("x"))
        assert refused.status == 503
    assert s.process.wait(harness.LONG) == EXIT_LOST, s.log_text()
    assert "the device has failed, the process ends: an illegal memory access" in s.log_text()
    s.stop()
    broken.unlink()
    with on_gpu(small_model, *flags, env=env) as s:
        kept = s.get("/v1/sessions/ses_kept").json()
        assert kept["id"] == "ses_kept"
        r = s.post("/v1/chat/completions", {k: v for k, v in ask.items() if k != "session_id"}, headers={"x-session-id": "kept"})
        assert r.status == 200 and r.json()["usage"]["prompt_tokens"] > 200, r.body


def test_trainings_that_had_not_begun_run_in_the_next_process(small_model, tmp_path):
    broken = tmp_path / "broken"
    env = {**MEMORY, "GPU_BREAK": str(broken)}
    flags = ("--state-dir", str(tmp_path / "state"), "--kv-size", "64MiB")
    steps = {"steps": 200, "span_tokens": 64, "guard": False}
    s = on_gpu(small_model, *flags, env=env)
    for name in ("one", "two"):
        r = s.post("/v1/sessions", {"messages": [{"role": "user", "content": harness.words(200)}]}, headers={"x-session-id": name})
        assert r.status in (200, 201), r.body
    jobs = [s.post(f"/v1/sessions/ses_{name}/qttt/jobs", steps).json() for name in ("one", "two")]
    s.job(jobs[0], lambda j: j["status"] == "running")
    assert s.get(f"/v1/qttt/jobs/{jobs[1]['id']}").json()["status"] == "queued"
    broken.write_text("")
    assert s.process.wait(harness.LONG) == EXIT_LOST, s.log_text()
    s.stop()
    broken.unlink()
    with on_gpu(small_model, *flags, env=env) as s:
        first = s.get(f"/v1/qttt/jobs/{jobs[0]['id']}").json()
        assert first["status"] == "failed" and first["error"]["code"] == "device_failure", first
        second = s.job(jobs[1])
        assert second["status"] == "succeeded", second


def test_a_device_that_fails_at_the_start(small_model, tmp_path):
    (tmp_path / "broken").write_text("")
    status, _, err = command("serve", "--port", "0", "--model", small_model, *GPU,
                             env={**MEMORY, "GPU_BREAK": str(tmp_path / "broken"), "XDG_STATE_HOME": str(tmp_path)})
    assert status == EXIT_DEVICE and "illegal memory access" in err, err


# ---- the kernels themselves ----

def test_the_module_that_nvcc_made_finds_no_device():
    """The real one, with the real runtime: it loads, and its sentence is told."""
    module = pathlib.Path(harness.BINARY).parent.parent / "kernels/cuda/qttt-cuda.so"
    if not module.exists():
        pytest.skip("the CUDA module was not built here (ninja cuda-module; docs/cuda.md)")
    status, _, err = command("inspect", TINY, "--device", "cuda", env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert status == EXIT_DEVICE and "no CUDA device" in err, err
    status, _, err = command("inspect", TINY, "--device", "cuda", "--cuda-module", module, env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert status == EXIT_DEVICE and "no CUDA device" in err, err


@pytest.fixture
def emulated():
    if not EMULATED:
        pytest.skip("the emulated device was not built (docs/cuda.md)")
    return ("--device", "cuda", "--cuda-module", EMULATED, "--kv-size", "1MiB", "--max-context", "512")


PROMPT = [5 + i * 7 % 250 for i in range(48)]


@pytest.mark.parametrize("kv_type", ["bf16", "q8"])
def test_the_emulated_device_answers_as_the_cpu_does(emulated, kv_type):
    body = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    with Server("--device", "cpu", "--max-context", "512", "--kv-type", kv_type, model=TINY) as s:
        want = s.post("/v1/completions", body).json()
    with Server(*emulated, "--kv-type", kv_type, model=TINY) as s:
        got = s.post("/v1/completions", body).json()
        assert got["choices"][0]["text"] == want["choices"][0]["text"] and got["usage"]["completion_tokens"] == 4
        adapt = {**body, "qttt": {"mode": "on", "steps": 1, "span_tokens": 16, "guard": False, "context": {"tokens": 32}}}
        r = s.post("/v1/completions", adapt)
        assert r.status == 200 and r.json()["qttt"]["status"] == "succeeded", r.body


def test_the_emulated_device_fails_and_its_sessions_come_back(emulated, tmp_path):
    fail, kept = tmp_path / "fail", {"x-session-id": "kept"}
    turn = {"append": True, "messages": [{"role": "user", "content": "of"}], "max_tokens": 4, "temperature": 0}
    flags = (*emulated, "--state-dir", str(tmp_path / "state"))
    s = Server(*flags, model=TINY, env={"CUEMU_FAIL_FILE": str(fail)})
    r = s.post("/v1/sessions", {"messages": [{"role": "user", "content": "a river"}]}, headers=kept)
    assert r.status in (200, 201), r.body
    s.wait_idle()
    fail.write_text("40:cudaErrorIllegalAddress")
    r = s.post("/v1/chat/completions", turn, headers=kept)
    assert r.status == 500 and r.json()["error"]["code"] == "device_failure", r.body
    assert s.process.wait(harness.LONG) == EXIT_LOST, s.log_text()
    s.stop()
    with Server(*flags, model=TINY) as s:
        r = s.post("/v1/chat/completions", turn, headers=kept)
        assert r.status == 200 and r.json()["usage"]["completion_tokens"] > 0, r.body
