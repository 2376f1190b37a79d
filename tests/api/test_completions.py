"""Completions as evaluation harnesses use them: prompt shapes, echo, legacy logprobs, exact equality for greedy tests."""
import math

import pytest

import harness

TEXT = "The quick brown fox jumps over the lazy dog. The dog sleeps."


def complete(server, **body):
    r = server.post("/v1/completions", body)
    assert r.status == 200, r.body
    return r.json()


@pytest.fixture(scope="module")
def plain():
    """A server without drafts."""
    with harness.Server("--speculation", "off") as s:
        yield s


def ids_of(server, text):
    return server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]


def test_prompt_shapes_agree(server):
    a, b = "The sky is", "Once upon a time there was"
    ids = [ids_of(server, a), ids_of(server, b)]
    kw = {"max_tokens": 6, "temperature": 0, "add_special_tokens": False}
    one = [complete(server, prompt=p, **kw)["choices"][0]["text"] for p in (a, b)]
    assert [complete(server, prompt=i, **kw)["choices"][0]["text"] for i in ids] == one
    for prompt in ([a, b], ids):
        r = complete(server, prompt=prompt, **kw)
        assert [c["index"] for c in r["choices"]] == [0, 1]
        assert [c["text"] for c in r["choices"]] == one
        assert r["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
        assert r["usage"]["completion_tokens"] == 12


def test_default_max_tokens_is_16(server):
    assert complete(server, prompt="One two three", ignore_eos=True)["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("top", [0, 1, 5])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs(server, top, max_tokens):
    ids = ids_of(server, TEXT)
    r = complete(server, prompt=ids, echo=True, logprobs=top, max_tokens=max_tokens, temperature=0)
    choice, lp = r["choices"][0], r["choices"][0]["logprobs"]
    n = len(ids) + r["usage"]["completion_tokens"]
    assert r["usage"]["completion_tokens"] <= max_tokens and r["usage"]["prompt_tokens"] == len(ids)
    assert choice["text"].startswith(TEXT)
    assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["text_offset"]) == n
    assert "".join(lp["tokens"]) == choice["text"]
    assert lp["token_logprobs"][0] is None and all(x <= 0 for x in lp["token_logprobs"][1:])
    at = 0
    for token, offset in zip(lp["tokens"], lp["text_offset"]):
        assert offset == at
        at += len(token)
    if top == 0:
        return
    assert len(lp["top_logprobs"]) == n and lp["top_logprobs"][0] is None
    for token, chosen, alternatives in zip(lp["tokens"][1:], lp["token_logprobs"][1:], lp["top_logprobs"][1:]):
        assert top <= len(alternatives) <= top + 1
        # What a greedy test compares, for exact equality: the same number must be printed in both places.
        assert alternatives[token] == chosen
        assert max(alternatives.values()) >= chosen


def test_loglikelihood_as_an_evaluation_harness_asks(server):
    """score(context + continuation) from echo equals the model's own greedy choice where it is greedy."""
    context, n = ids_of(server, "The capital of France is"), 4
    greedy = complete(server, prompt=context, max_tokens=n, temperature=0, logprobs=1)["choices"][0]
    # Token by token: the text as a whole may be split otherwise.
    continuation = [i for token in greedy["logprobs"]["tokens"] for i in ids_of(server, token)]
    assert len(continuation) == n
    r = complete(server, prompt=context + continuation, echo=True, logprobs=1, max_tokens=1, temperature=0)
    lp = r["choices"][0]["logprobs"]
    span = slice(len(context), len(context) + len(continuation))
    is_greedy = all(lp["token_logprobs"][i] == max(lp["top_logprobs"][i].values()) for i in range(*span.indices(999)))
    assert is_greedy
    total = sum(lp["token_logprobs"][span])
    decoded = sum(greedy["logprobs"]["token_logprobs"])
    assert total == pytest.approx(decoded, abs=0.15), "decoded and re-read tokens disagree"
    worse = complete(server, prompt=context + ids_of(server, " purple"), echo=True, logprobs=1, max_tokens=0)
    assert worse["choices"][0]["logprobs"]["token_logprobs"][-1] < total / len(continuation)


def test_generated_logprobs_without_echo(server):
    r = complete(server, prompt="The capital of France is", max_tokens=5, temperature=0, logprobs=3)
    lp = r["choices"][0]["logprobs"]
    assert len(lp["tokens"]) == r["usage"]["completion_tokens"]
    assert "".join(lp["tokens"]) == r["choices"][0]["text"]
    assert all(v is not None for v in lp["token_logprobs"])
    for token, chosen, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
        assert chosen == max(top.values()) == top[token]
        assert sum(math.exp(v) for v in top.values()) <= 1.0001


def test_echo_without_logprobs(server):
    r = complete(server, prompt="Hello there", echo=True, max_tokens=3, temperature=0)
    alone = complete(server, prompt="Hello there", max_tokens=3, temperature=0)
    assert r["choices"][0]["text"] == "Hello there" + alone["choices"][0]["text"]
    assert r["choices"][0]["logprobs"] is None


def test_echo_streamed(server):
    from harness import text_of
    plain = complete(server, prompt="Hello there", echo=True, max_tokens=3, temperature=0)["choices"][0]["text"]
    r = server.post("/v1/completions", {"prompt": "Hello there", "echo": True, "max_tokens": 3, "temperature": 0, "stream": True})
    assert text_of(r.events()) == plain


def test_streamed_logprobs_equal_plain_ones(server):
    body = {"prompt": TEXT, "max_tokens": 5, "temperature": 0, "logprobs": 2}
    plain = complete(server, **body)["choices"][0]["logprobs"]
    r = server.post("/v1/completions", {**body, "stream": True})
    streamed = [e["choices"][0]["logprobs"] for e in r.events() if isinstance(e, dict) and e["choices"]
                and e["choices"][0].get("logprobs")]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [x for part in streamed for x in part[key]] == plain[key]


def test_tokenize_and_back(server):
    for text in ("", "Hello, world!", "  spaces  and\ttabs\r\n", "Grüße 🦙 日本語 e\u0301 \u202eabc", "x" * 5000):
        r = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
        assert r["count"] == len(r["tokens"])
        assert server.post("/detokenize", {"tokens": r["tokens"]}).json()["prompt"] == text


def test_tokenizer_info(server, client, name):
    info = server.get("/tokenizer_info").json()
    assert info["model_max_length"] == client.models.retrieve(name).max_model_len
    eos = server.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False, "parse_special": True}).json()
    assert eos["tokens"] == [info["eos_token_id"]] if "eos_token_id" in info else eos["count"] == 1


@pytest.mark.parametrize("prompt", [[], [[]], "", [1, "a"], [10 ** 9], [-1], [1.5], 7, None, {"a": 1}, [None], [True]])
def test_prompts_that_are_refused(server, prompt):
    r = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
    assert r.status == 400 and r.json()["error"]["param"] == "prompt", r.body


def drafts(server):
    m = server.metrics()
    return [m["qttt_%s_tokens_total" % n, ()] for n in ("drafted", "accepted")]


def test_drafts_give_tokens_and_change_none(server, plain):
    """Of one word again and again, drafts foretell what comes; usage and /metrics say so."""
    word = ids_of(server, " sea")[0]
    for kw in ({"temperature": 0}, {"temperature": 1, "seed": 7}):
        body = dict(prompt=TEXT, max_tokens=48, logit_bias={str(word): 100}, ignore_eos=True, **kw)
        before = drafts(server)
        with_drafts, without = complete(server, **body), complete(plain, **body)
        assert with_drafts["choices"][0]["text"] == without["choices"][0]["text"]
        usage = with_drafts["usage"]
        accepted = usage.pop("completion_tokens_details")["accepted_prediction_tokens"]
        assert 0 < accepted < 48
        usage.pop("prompt_tokens_details"), without["usage"].pop("prompt_tokens_details")
        assert usage == without["usage"]
        after = drafts(server)
        assert after[1] >= before[1] + accepted and after[0] - before[0] >= after[1] - before[1]
    assert drafts(plain) == [0, 0]
