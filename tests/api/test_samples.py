"""Several answers of one request: n, several prompts, both; through the openai client and as raw streams."""
import collections

import pytest

import harness
from harness import chat, encode, text_of, words

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = [{"role": "user", "content": "Name a river."}]


def test_three_samples_are_those_of_three_seeds(client, name):
    """Sample i of a request with a seed is the answer to the same request with seed + i."""
    kw = {"model": name, "messages": QUESTION, "max_tokens": 12, "temperature": 1.5}
    r = client.chat.completions.create(n=3, seed=100, **kw)
    assert [c.index for c in r.choices] == [0, 1, 2]
    alone = [client.chat.completions.create(seed=100 + i, **kw) for i in range(3)]
    assert [c.message.content for c in r.choices] == [a.choices[0].message.content for a in alone]
    assert len({c.message.content for c in r.choices}) > 1
    assert r.usage.prompt_tokens == alone[0].usage.prompt_tokens, "a prompt counts once"
    assert r.usage.completion_tokens == sum(a.usage.completion_tokens for a in alone)
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_without_a_seed_samples_differ(client, name):
    r = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=24, temperature=2, n=4)
    assert len({c.message.content for c in r.choices}) > 1


def test_each_choice_has_its_own_logprobs(client, name):
    r = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=8, temperature=1.5, n=3, seed=7,
                                       logprobs=True, top_logprobs=1)
    for c in r.choices:
        assert "".join(t.token for t in c.logprobs.content) == c.message.content
    assert r.usage.completion_tokens >= sum(len(c.logprobs.content) for c in r.choices)


def test_prompts_times_samples(client, name):
    """index = prompt * n + sample, each choice with the text, echo and log-probabilities of its own prompt."""
    prompts, n = ["The sky is", "Once upon a time there was", "One two"], 2
    kw = {"model": name, "max_tokens": 6, "temperature": 1.2, "echo": True, "logprobs": 1, "seed": 11}
    r = client.completions.create(prompt=prompts, n=n, **kw)
    assert [c.index for c in r.choices] == list(range(6))
    used = 0
    for i, prompt in enumerate(prompts):
        for k in range(n):
            alone = client.completions.create(prompt=prompt, **{**kw, "seed": 11 + k})
            choice = r.choices[i * n + k]
            assert choice.text == alone.choices[0].text and choice.text.startswith(prompt)
            assert choice.logprobs.tokens == alone.choices[0].logprobs.tokens
        used += alone.usage.prompt_tokens
    assert r.usage.prompt_tokens == used


def test_cached_tokens_are_those_that_no_sample_made(server):
    """What the samples share with each other is not a hit of the cache."""
    body = chat(words(400, seed=60901), max_tokens=2, n=3)
    first = server.post(CHAT, body).json()["usage"]
    again = server.post(CHAT, body).json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["prompt_tokens_details"]["cached_tokens"] > again["prompt_tokens"] / 2


def streamed(server, path, body):
    """The chunks of a stream by choice, and the order in which the choices' texts came."""
    r = server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert r.status == 200, r.body
    events = r.events()
    assert events[-1] == "[DONE]"
    chunks = [e for e in events if isinstance(e, dict)]
    by_index, order = collections.defaultdict(list), []
    for chunk in chunks:
        for choice in chunk["choices"]:
            by_index[choice["index"]].append(chunk)
            if choice.get("text") or choice.get("delta", {}).get("content"):
                order.append(choice["index"])
    assert len({c["id"] for c in chunks}) == 1
    return by_index, order, chunks[-1]["usage"]


def test_stream_of_two_samples(server):
    body = chat("Count.", max_tokens=40, n=2, seed=5, temperature=1.2, ignore_eos=True)
    by_index, order, usage = streamed(server, CHAT, body)
    plain = server.post(CHAT, body).json()
    assert sorted(by_index) == [0, 1]
    for i, chunks in by_index.items():
        deltas = [c["choices"][0]["delta"] for c in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""} and all("role" not in d for d in deltas[1:])
        ends = [c["choices"][0]["finish_reason"] for c in chunks]
        assert ends[-1] == "length" and not any(ends[:-1])
        assert text_of(chunks) == plain["choices"][i]["message"]["content"]
    assert usage == {**plain["usage"], "prompt_tokens_details": usage["prompt_tokens_details"]}


def test_stream_of_prompts_and_samples(server):
    body = {"prompt": ["The sky is", "One two"], "n": 2, "max_tokens": 10, "temperature": 1.2, "seed": 3, "logprobs": 1}
    by_index, _, usage = streamed(server, COMPLETIONS, body)
    plain = server.post(COMPLETIONS, body).json()
    assert sorted(by_index) == [0, 1, 2, 3]
    for i, chunks in by_index.items():
        assert text_of(chunks) == plain["choices"][i]["text"]
        tokens = [t for c in chunks if c["choices"][0]["logprobs"] for t in c["choices"][0]["logprobs"]["tokens"]]
        assert tokens == plain["choices"][i]["logprobs"]["tokens"]
    assert usage["completion_tokens"] == plain["usage"]["completion_tokens"]


def test_the_openai_client_reads_a_stream_of_samples(client, name):
    texts = collections.Counter()
    for chunk in client.chat.completions.create(model=name, messages=QUESTION, max_tokens=10, n=2, stream=True,
                                                extra_body={"ignore_eos": True}):
        for choice in chunk.choices:
            texts[choice.index] += len(choice.delta.content or "")
    assert sorted(texts) == [0, 1] and min(texts.values()) > 0


@pytest.mark.parametrize("n,param", [(9, "n"), (17, "n"), (0, "n")])
def test_more_samples_than_places(server, n, param):
    """max_requests of conftest.py is 8."""
    r = server.post(CHAT, chat("Hi", max_tokens=1, n=n))
    assert r.status == 400 and r.json()["error"]["param"] == param, r.body


def test_best_of_is_refused(server):
    r = server.post(COMPLETIONS, {"prompt": "Hi", "n": 2, "best_of": 3, "max_tokens": 1})
    assert r.status == 400 and r.json()["error"]["code"] == "unsupported_parameter"


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_frees_every_sample(server, stream):
    for n in (2, 6):
        with server.connect() as c:
            c.send(encode("POST", CHAT, chat("Count.", max_tokens=4000, ignore_eos=True, n=n, stream=stream)))
            server.wait_load(lambda r, w: r + w == n, harness.LONG)
        limit = 1.0 * harness.TIME_FACTOR
        assert server.wait_idle(limit) < limit


def test_samples_of_an_adapted_model(server):
    """n answers over one adaptation: trained once, told once, and each answer is that of its seed alone."""
    document = words(700, seed=77)
    body = {"messages": [{"role": "system", "content": document}, {"role": "user", "content": "What?"}],
            "max_tokens": 8, "temperature": 1.2, "seed": 21,
            "qttt": {"mode": "on", "steps": 2, "span_tokens": 32, "guard": False, "learning_rate": 1e-4, "seed": 5}}

    def trained():
        return sum(v for (name, _), v in server.metrics().items() if name == "qttt_steps_total")
    before = trained()
    r = server.post(CHAT, {**body, "n": 3}).json()
    assert trained() - before == 2
    assert r["qttt"]["cached"] is False and r["qttt"]["kept"] and r["qttt"]["steps_done"] == 2
    for i, choice in enumerate(r["choices"]):
        alone = server.post(CHAT, {**body, "seed": 21 + i}).json()
        assert alone["qttt"]["cached"] and alone["qttt"]["adapter_id"] == r["qttt"]["adapter_id"]
        assert choice["message"]["content"] == alone["choices"][0]["message"]["content"]


def test_samples_are_no_load_to_each_other():
    """Mode auto decides once for all samples: three on an idle server are more than auto_max_load, but not others."""
    with harness.Server(settings={"qttt": {"auto_min_tokens": 1000, "auto_max_load": 1}}) as s:
        ids = s.post("/tokenize", {"prompt": words(1200, seed=78)}).json()["tokens"][:1400]
        body = {"prompt": ids, "max_tokens": 2, "n": 3, "ignore_eos": True,
                "qttt": {"mode": "auto", "steps": 1, "span_tokens": 16, "guard": False}}
        q = s.post(COMPLETIONS, body).json()["qttt"]
    assert (q["status"], q["reason"], q["cached"]) == ("succeeded", None, False)


def test_samples_are_written_together(server):
    """The chunks of two choices come in turn, not one choice after the other."""
    body = chat("Count.", max_tokens=60, n=2, seed=6, ignore_eos=True)
    _, order, _ = streamed(server, CHAT, body)
    turns = sum(a != b for a, b in zip(order, order[1:]))
    assert turns > len(order) / 3, order


def test_a_request_gets_all_its_places_or_none(narrow):
    """One answer runs and seven wait, so one place of eight is free: two do not fit, and take nothing; one does."""
    with narrow.connect() as c:
        c.send(encode("POST", CHAT, chat("Count.", max_tokens=4000, ignore_eos=True, n=8, stream=True)))
        assert c.head()[0] == 200
        narrow.wait_load(lambda r, w: (r, w) == (1, 7), harness.LONG)
        r = narrow.post(CHAT, chat("Hi", max_tokens=1, n=2))
        assert r.status == 429 and int(r.headers["retry-after"]) >= 1
        assert narrow.load() == (1, 7)
        with narrow.connect() as one:
            one.send(encode("POST", CHAT, chat("Hi", max_tokens=1, stream=True)))
            assert one.head()[0] == 200
            assert narrow.load() == (1, 8)
