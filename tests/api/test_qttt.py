"""The qttt object in and out: adaptation in a request, its cache, the alias, what is reported. docs/api.md."""
import pytest

import harness
from harness import chat, text_of, words

PATH = "/v1/chat/completions"
# About 1,900 tokens: over the 1,024 that the recall probe and so the guard need.
DOCUMENT = words(1500, seed=42) + "\nThe code word of the harbour is marzipan.\n"
QUICK = {"mode": "on", "steps": 2, "span_tokens": 32}


def ask(server, qttt=None, document=DOCUMENT, **fields):
    body = {"messages": [{"role": "system", "content": document},
                         {"role": "user", "content": "What is the code word of the harbour?"}],
            "max_tokens": 8, "temperature": 0, **fields}
    if qttt is not None:
        body["qttt"] = qttt
    r = server.post(PATH, body)
    assert r.status == 200, r.body
    return r.json()


def test_what_an_adapted_answer_reports(server):
    q = ask(server, QUICK)["qttt"]
    assert q["status"] == "succeeded" and q["reason"] is None and q["stop_reason"] == "steps"
    assert q["steps_done"] == 2 and q["trained_tokens"] == 64
    h = q["hyperparameters"]
    assert (h["steps"], h["span_tokens"], h["adapter"], h["objective"], h["optimizer"], h["seed"], h["guard"]) == \
        (2, 32, "full", "next_token", "adamw", 0, True)
    assert h["learning_rate"] == pytest.approx(3e-6) and h["weight_decay"] == pytest.approx(0.01)
    assert q["recall"]["segments"] == 10 and q["recall"]["before"] > 0 and q["recall"]["standard_error"] >= 0
    assert 0 < q["delta_norm_relative"] < 0.05
    assert q["flops"] > 0 and q["equal_cost_tokens"] > 0 and q["prefill_seconds"] > 0 and q["adapt_seconds"] > 0
    # The guard's verdict and the weights that answered are one thing.
    assert q["kept"] == (q["generation"] == 1) == (q["adapter_id"] is not None)


def test_no_field_no_adaptation(server):
    for off in (None, False, {"mode": "off"}, {}):
        assert "qttt" not in ask(server, off)


def test_off_is_the_base(server):
    """After adapted answers, the base answers bit for bit as before."""
    before = ask(server, False, logprobs=True, top_logprobs=2)
    ask(server, {**QUICK, "guard": False, "learning_rate": 1e-3, "steps": 3, "seed": 5})
    after = ask(server, False, logprobs=True, top_logprobs=2)
    assert after["choices"] == before["choices"]


def test_adaptation_acts(server):
    """A large rate without the guard changes the numbers that are printed."""
    plain = ask(server, False, logprobs=True, top_logprobs=2)
    moved = ask(server, {"mode": "on", "steps": 4, "span_tokens": 64, "learning_rate": 3e-4, "guard": False},
                logprobs=True, top_logprobs=2)
    assert moved["qttt"]["kept"] and moved["qttt"]["generation"] == 1 and moved["qttt"]["adapter_id"]
    assert moved["choices"][0]["logprobs"] != plain["choices"][0]["logprobs"]


def test_a_second_request_reuses_the_adapter(server):
    """Same context, hyperparameters and seed: nothing is trained again, whatever the question; a new seed trains anew."""
    qttt = {**QUICK, "guard": False, "seed": 77}
    first = ask(server, qttt)["qttt"]
    body = {"messages": [{"role": "system", "content": DOCUMENT}, {"role": "user", "content": "What is a lamp?"}]}
    again = ask(server, qttt, messages=body["messages"])["qttt"]
    assert first["cached"] is False and again["cached"] is True
    assert again["adapter_id"] == first["adapter_id"] and again["kept"]
    assert again["delta_norm_relative"] == first["delta_norm_relative"]
    other = ask(server, {**qttt, "seed": 78})["qttt"]
    assert other["cached"] is False and other["adapter_id"] != first["adapter_id"]


@pytest.mark.parametrize("rate", harness.DISCARDED)
def test_what_the_guard_discarded_is_remembered(server, rate):
    """A useless adaptation is discarded, the base answers and says so; the second time without training."""
    qttt = {"mode": "on", "steps": 6, "span_tokens": 64, "learning_rate": rate, "seed": 3}
    plain = ask(server, False, logprobs=True)
    first = ask(server, qttt, logprobs=True)
    q = first["qttt"]
    assert not q["kept"] and q["generation"] == 0 and q["adapter_id"] is None
    assert first["choices"] == plain["choices"]
    again = ask(server, qttt)["qttt"]
    assert again["cached"] is True and not again["kept"]


def test_same_request_same_result(server):
    """Two servers, one request: the adapter's numbers and the answer agree to the bit."""
    qttt = {**QUICK, "guard": False, "learning_rate": 1e-4, "seed": 9}
    here = ask(server, qttt, logprobs=True, top_logprobs=2)
    with harness.Server() as other:
        there = ask(other, qttt, logprobs=True, top_logprobs=2)
    assert here["choices"] == there["choices"]
    for key in ("recall", "span_loss_before", "span_loss_after", "delta_norm_relative"):
        assert here["qttt"][key] == there["qttt"][key], key


def test_the_alias_means_mode_on(server, client, name):
    short = words(300, seed=8)
    r = client.chat.completions.create(model=f"{name}-qttt", max_tokens=2, messages=[
        {"role": "system", "content": short}, {"role": "user", "content": "What?"}])
    assert r.model == f"{name}-qttt"
    assert r.qttt["status"] == "skipped", "under 1,024 tokens the guard has no probe"
    explicit = ask(server, False, document=short, model=f"{name}-qttt")
    assert "qttt" not in explicit, "the field wins over the alias"


def test_contexts_too_short_for_the_guard_are_skipped(server):
    q = ask(server, {"mode": "on"}, document=words(400, seed=6))["qttt"]
    assert (q["status"], q["reason"], q["kept"], q["generation"], q["steps_done"]) == \
        ("skipped", "guard_unavailable", False, 0, 0)
    q = ask(server, {**QUICK, "guard": False}, document=words(400, seed=6))["qttt"]
    assert q["status"] == "succeeded" and q["kept"] and q["recall"] is None
    # Nothing to train on at all.
    r = server.post(PATH, chat("Hi", max_tokens=1, qttt={"mode": "on", "guard": False})).json()["qttt"]
    assert r["status"] == "skipped" and r["steps_done"] == 0


def test_context_can_be_given(server):
    q = ask(server, {**QUICK, "guard": False, "context": {"tokens": 500}})["qttt"]
    assert q["hyperparameters"]["context_tokens"] == 500
    q = ask(server, {**QUICK, "guard": False, "context": {"messages": 1}})["qttt"]
    assert q["hyperparameters"]["context_tokens"] > 1000
    r = server.post(PATH, chat("Hi", qttt={"mode": "on", "context": {"tokens": 10 ** 6}}))
    assert r.status == 400 and r.json()["error"]["param"].startswith("qttt.context")
    r = server.post(PATH, chat("Hi", qttt={"mode": "on", "context": {"messages": 9}}))
    assert r.status == 400 and r.json()["error"]["param"].startswith("qttt.context")


def test_completions_adapt_to_all_but_the_last_256_tokens(server):
    ids = server.post("/tokenize", {"prompt": DOCUMENT, "add_special_tokens": False}).json()["tokens"]
    r = server.post("/v1/completions", {"prompt": ids, "max_tokens": 2, "qttt": {**QUICK, "guard": False}}).json()
    assert r["qttt"]["hyperparameters"]["context_tokens"] == len(ids) - 256


def test_budgets(server):
    q = ask(server, {"mode": "on", "steps": 256, "guard": False, "seed": 31, "budget": {"max_seconds": 0.5}})["qttt"]
    assert q["stop_reason"] == "seconds" and 0 < q["steps_done"] < 256
    q = ask(server, {"mode": "on", "steps": 50, "span_tokens": 32, "guard": False, "seed": 32,
                     "budget": {"max_span_tokens": 96}})["qttt"]
    assert q["stop_reason"] == "span_tokens" and q["steps_done"] == 3


AUTO = {"mode": "auto", "steps": 2, "span_tokens": 32, "guard": False}


def test_mode_auto_says_what_it_decided():
    """The operator's three reasons not to adapt, one by one, and an adaptation when none of them holds."""
    def verdict(rule, document, busy=False):
        with harness.Server(settings={"qttt": {"auto_min_tokens": 1000, "auto_min_recall": 0.01, **rule}}) as s:
            if not busy:
                return ask(s, AUTO, document)["qttt"]
            with s.connect() as c, s.connect() as d:
                for each in (c, d):
                    each.send(harness.encode("POST", PATH, chat("Count.", max_tokens=4000, ignore_eos=True, stream=True)))
                    assert each.head()[0] == 200
                s.wait_load(lambda r, w: r == 2, harness.LONG)
                return ask(s, AUTO, document)["qttt"]
    short, long = words(500, seed=43), words(950, seed=44)
    q = verdict({}, long)
    assert (q["status"], q["reason"], q["kept"], q["steps_done"]) == ("succeeded", None, True, 2)
    for rule, document, busy, reason in (({}, short, False, "auto_context_is_short"),
                                         ({"auto_min_recall": 100}, long, False, "auto_recall_is_low"),
                                         ({"auto_min_tokens": 1, "auto_max_load": 1}, short, True, "auto_load_is_high")):
        q = verdict(rule, document, busy)
        assert (q["status"], q["reason"], q["kept"], q["generation"], q["steps_done"]) == ("skipped", reason, False, 0, 0)


@pytest.mark.parametrize("qttt", [
    {"adapter": "lora", "rank": 4}, {"objective": "recall", "span_tokens": 96}, {"optimizer": "sgd", "learning_rate": 1e-4},
    {"layers": [0, 5]}, {"grad_clip": 0.1, "weight_decay": 0.5}])
def test_variants(server, qttt):
    q = ask(server, {**QUICK, "guard": False, **qttt})["qttt"]
    assert q["status"] == "succeeded"
    for key, value in qttt.items():
        assert q["hyperparameters"][key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert q["delta_norm_relative"] > 0


def test_progress_of_an_adaptation(server):
    body = {"messages": [{"role": "user", "content": DOCUMENT + "What?"}], "max_tokens": 2, "stream": True,
            "stream_options": {"include_progress": True, "include_usage": True},
            "qttt": {**QUICK, "steps": 3, "guard": False, "seed": 12, "context": {"tokens": 1024}}}
    chunks = [e for e in server.post(PATH, body).events() if isinstance(e, dict)]
    phases = [c["progress"]["phase"] for c in chunks if "progress" in c]
    # The context is read, adapted to, and then the question is read with the adapter.
    runs = [p for i, p in enumerate(phases) if i == 0 or phases[i - 1] != p]
    assert runs in (["queued", "prefill", "adapt", "prefill"], ["prefill", "adapt", "prefill"], ["queued", "adapt", "prefill"])
    adapt = [c["progress"] for c in chunks if "progress" in c and c["progress"]["phase"] == "adapt"]
    assert [p["done"] for p in adapt if p["done"]] == [1, 2, 3] and all(p["total"] == 3 for p in adapt)
    assert all(p["loss"] > 0 for p in adapt if p["done"])
    results = [c for c in chunks if "qttt" in c]
    assert len(results) == 1 and chunks.index(results[0]) >= len(chunks) - 2
    assert text_of(chunks) != ""


def test_trained_tokens_do_not_count_in_usage(server):
    plain, adapted = ask(server, False)["usage"], ask(server, {**QUICK, "guard": False})["usage"]
    assert plain["prompt_tokens"] == adapted["prompt_tokens"]
