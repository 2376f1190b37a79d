#!/usr/bin/env python3
"""Computes the vectors of the tiny models: dump_tiny.py MODELS_DIR OUT_DIR [FAMILY ...]

MODELS_DIR is what make_tiny.py wrote. Needs torch 2.5, transformers 4.51, gguf 0.17, numpy. Everything is computed in
float64 and stored as float32 (losses and norms as float64). Before a file is written the oracle is checked against
itself: transformers' untouched float32 forward, finite differences, and the GGUF file against the folder's tensors.
docs of the names: tests/golden/README.md."""

import sys

import gguf
import numpy as np
import torch
import transformers

import ttv
from oracle import Oracle

C, K, RANK, ALPHA = 220, 32, 4, 8.0
FULL = ("llama", "qwen2", "qwen3", "gemma3")
QUESTION = 12


def bf16(t):
    return t.to(torch.bfloat16).to(t.dtype)


def zeros(o):
    return [torch.zeros_like(o.wq(i)) for i in range(o.layers)]


def grads(loss, params):
    return [g.detach() for g in torch.autograd.grad(loss, params)]


def norm(gs):
    return float(torch.sqrt(sum((g * g).sum() for g in gs)))


def put(out, name, tensors):
    for i, t in enumerate(tensors):
        out["%s.%d" % (name, i)] = t.detach().float().numpy()


def check(what, a, b, tolerance):
    error = abs(float(a) - float(b)) / max(1e-12, abs(float(b)))
    assert error <= tolerance, "%s: %.12g against %.12g (%.2g)" % (what, a, b, error)


def finite_differences(loss_of, delta, g, rng, what):
    """Directional derivatives along g, along random directions, and single elements of each layer."""
    layers = len(delta)
    directions = [[x / norm(g) for x in g]]
    for _ in range(2):
        directions.append([torch.from_numpy(rng.standard_normal(tuple(x.shape))) for x in g])
    for i in range(layers):
        d = [torch.zeros_like(x) for x in g]
        d[i].view(-1)[int(g[i].abs().argmax())] = 1.0
        directions.append(d)
    with torch.no_grad():
        for d in directions:
            h = 1e-5 / norm(d)
            up = loss_of([x + h * y for x, y in zip(delta, d)])
            down = loss_of([x - h * y for x, y in zip(delta, d)])
            exact = float(sum((x * y).sum() for x, y in zip(g, d)))
            numeric = float(up - down) / (2 * h)
            assert abs(numeric - exact) <= 1e-6 * max(abs(exact), 1e-2 * norm(d) * norm(g)), (what, numeric, exact)


def span_gradient(o, ids, start, k, delta):
    o.delta = [d.clone().requires_grad_(True) for d in delta]
    losses = o.span(ids, start, k)
    g = grads(losses.mean(), o.delta)
    return losses.detach(), g


def dump_span(o, out, name, ids, start, k, delta, rng):
    losses, g = span_gradient(o, ids, start, k, delta)

    def loss_of(d):
        o.delta = d
        return o.span(ids, start, k).mean()
    finite_differences(loss_of, delta, g, rng, name)
    out[name] = np.array([start, k], np.int32)
    out[name + ".loss"] = np.float64(losses.mean())
    out[name + ".row_loss"] = losses.float().numpy()
    out[name + ".gnorm"] = np.float64(norm(g))
    put(out, name + ".g", g)
    return losses


def dump_recall(o, out, name, ids, starts, delta, rng):
    o.delta = [d.clone().requires_grad_(True) for d in delta]
    losses, mask = o.recall(ids, starts)
    loss = (losses * mask).sum() / mask.sum()
    g = grads(loss, o.delta)
    fixed = o.own  # constants in the backward pass: held for the finite differences too

    def loss_of(d):
        o.delta = d
        a, m = o.recall(ids, starts, fixed=fixed)
        return (a * m).sum() / m.sum()
    finite_differences(loss_of, delta, g, rng, name)
    out[name] = np.array(starts, np.int32)
    out[name + ".loss"] = np.float64(loss.detach())
    out[name + ".row_loss"] = (losses * mask).detach().float().numpy()
    out[name + ".gnorm"] = np.float64(norm(g))
    put(out, name + ".g", g)


def dump_training(o, out, name, ids, spans, kind, lr, wd, clip, half=False):
    """Steps of torch's optimiser on W_Q + D itself; D is what it has become minus W_Q. half: D is stored as float16."""
    params = [o.wq(i).clone().requires_grad_(True) for i in range(o.layers)]
    if kind == "adamw":
        opt = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=wd)
    else:
        opt = torch.optim.SGD(params, lr=lr, weight_decay=0.0)
    losses, norms = [], []
    for start, k in spans:
        o.delta = [p - o.wq(i) for i, p in enumerate(params)]
        loss = o.span(ids, start, k).mean()
        opt.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, clip)))
        losses.append(float(loss))
        opt.step()
    o.delta = [(p - o.wq(i)).detach() for i, p in enumerate(params)]
    out[name] = np.array(spans, np.int32)
    out[name + ".hyper"] = np.array([lr, 0.9, 0.999, 1e-8, wd, clip], np.float64)
    out[name + ".loss"] = np.array(losses, np.float64)
    out[name + ".gnorm"] = np.array(norms, np.float64)
    out[name + ".loss_after"] = np.float64(o.span(ids, *spans[0]).mean().detach())
    put(out, name + ".d", o.delta)
    if half:
        for i in range(o.layers):
            out["%s.d.%d" % (name, i)] = out["%s.d.%d" % (name, i)].astype(np.float16)


def dump_lora(o, out, ids, spans, rng):
    a0, b0 = [], []
    for i in range(o.layers):
        rows, cols = o.wq(i).shape
        a0.append(bf16(torch.from_numpy(rng.standard_normal((RANK, cols)) / np.sqrt(cols))))
        b0.append(bf16(torch.from_numpy(rng.standard_normal((rows, RANK)) * 0.05)))
    o.delta, scale = None, ALPHA / RANK
    put(out, "lora.a", a0)
    put(out, "lora.b", b0)
    out["lora.scale"] = np.float64(scale)
    a, b = [x.clone().requires_grad_(True) for x in a0], [x.clone().requires_grad_(True) for x in b0]
    o.lora = (a, b, scale)
    loss = o.span(ids, *spans[0]).mean()
    g = grads(loss, a + b)
    out["lora.loss"] = np.float64(loss.detach())
    out["lora.gnorm"] = np.float64(norm(g))
    put(out, "lora.ga", g[:o.layers])
    put(out, "lora.gb", g[o.layers:])

    b = [torch.zeros_like(x).requires_grad_(True) for x in b0]
    a = [x.clone().requires_grad_(True) for x in a0]
    lr, wd, clip = 1e-2, 0.01, 1.0
    opt = torch.optim.AdamW(a + b, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=wd)
    losses, norms = [], []
    for start, k in spans:
        o.lora = (a, b, scale)
        loss = o.span(ids, start, k).mean()
        opt.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(a + b, clip)))
        losses.append(float(loss))
        opt.step()
    out["lora_adamw"] = np.array(spans, np.int32)
    out["lora_adamw.hyper"] = np.array([lr, 0.9, 0.999, 1e-8, wd, clip], np.float64)
    out["lora_adamw.loss"] = np.array(losses, np.float64)
    out["lora_adamw.gnorm"] = np.array(norms, np.float64)
    put(out, "lora_adamw.a", a)
    put(out, "lora_adamw.b", b)
    o.lora = None


def dump_perturbed(o, out, ids, start, k):
    """One page of one layer's keys is moved by +0.25, of the same layer's values by -0.25."""
    layer, page = o.layers - 1, 1
    o.delta = zeros(o)
    k0, v0 = o.k[layer], o.v[layer]
    o.k[layer], o.v[layer] = k0.clone(), v0.clone()
    o.k[layer][:, 64 * page:64 * page + 64] += 0.25
    o.v[layer][:, 64 * page:64 * page + 64] -= 0.25
    losses = o.span(ids, start, k)
    o.k[layer], o.v[layer] = k0, v0
    out["perturb"] = np.array([layer, page, start, k], np.int32)
    out["perturb.loss"] = np.float64(losses.mean())
    out["perturb.row_loss"] = losses.float().numpy()


def dump_question(o, out, ids, question, delta):
    o.delta = zeros(o)
    base = o.question(ids, question)[-1]
    o.delta = delta
    adapted = o.question(ids, question)[-1]
    out["question"] = np.array(question, np.int32)
    out["question.base"] = base.float().numpy()
    out["question.adapted"] = adapted.float().numpy()
    tokens, answer = list(question), []
    for _ in range(8):
        best = torch.topk(o.question(ids, tokens)[-1], 2)
        if float(best.values[0] - best.values[1]) < 1e-3:
            break  # a near-tie says nothing
        answer.append(int(best.indices[0]))
        tokens.append(answer[-1])
    out["question.greedy"] = np.array(answer, np.int32)


def check_gguf(path, o):
    """The file as the gguf module reads it against the folder as transformers does."""
    from gguf.quants import dequantize
    state, config = o.model.state_dict(), o.model.config
    table = gguf.get_tensor_name_map({"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA,
                                      "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3,
                                      "gemma3_text": gguf.MODEL_ARCH.GEMMA3}[config.model_type], o.layers)
    found = {t.name: t for t in gguf.GGUFReader(path).tensors}
    names = {}
    for hf in state:
        if hf != "lm_head.weight" or not config.tie_word_embeddings:
            names[table.get_name(hf, try_suffixes=(".weight", ".bias"))] = hf
    assert None not in names and set(found) - {"rope_freqs.weight"} == set(names), set(found) ^ set(names)
    for gg, hf in names.items():
        want = state[hf].double().numpy()
        if config.model_type in ("llama", "mistral") and gg.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.num_attention_heads if gg.endswith("q.weight") else config.num_key_value_heads
            want = want.reshape(heads, 2, -1, want.shape[1]).swapaxes(1, 2).reshape(want.shape)
        if o.gemma and gg.endswith("norm.weight"):
            want = want + 1.0
        got = dequantize(found[gg].data, found[gg].tensor_type)
        assert got.shape == want.shape and (got == want).all(), gg
    if "rope_freqs.weight" in found:
        half = config.head_dim // 2
        plain = 1.0 / config.rope_theta ** (np.arange(half) / half)
        ratio = plain / o.model.model.rotary_emb.inv_freq.double().numpy()
        assert np.allclose(ratio, found["rope_freqs.weight"].data, rtol=1e-6), ratio


def dump(models, name, path):
    rng = np.random.default_rng(sum(name.encode()))
    plain = transformers.AutoModelForCausalLM.from_pretrained(models + "/" + name, torch_dtype=torch.float32,
                                                              attn_implementation="eager")
    ids = [int(x) for x in rng.integers(0, plain.config.vocab_size, C)]
    question = [int(x) for x in rng.integers(0, plain.config.vocab_size, QUESTION)]
    with torch.no_grad():
        untouched = plain(torch.tensor([ids])).logits[0].double()
    o = Oracle(models + "/" + name)
    check_gguf(models + "/" + name + ".gguf", o)
    logits = o.prefill(ids)
    error = float((logits - untouched).abs().max())
    assert error < 2e-3, error
    top = float(torch.softmax(logits, -1).max(-1).values.mean())
    print("%s: logits sd %.2f, top p %.2f, attention peak %.2f, float32 forward differs by %.1e"
          % (name, float(logits.std()), top, o.peak / o.layers, error))

    out = {"ids": np.array(ids, np.int32)}
    where = sorted({0, 1, 63, 64, 65, C - 1} | {int(x) for x in rng.integers(2, C - 1, 14)})
    losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    out["logits.rows"] = np.array(where, np.int32)
    out["logits"] = logits[where].float().numpy()
    out["row_loss"] = losses.float().numpy()

    delta = []
    for i in range(o.layers):
        d = torch.from_numpy(rng.standard_normal(tuple(o.wq(i).shape)))
        delta.append(bf16(d * (0.1 * float(o.wq(i).norm() / d.norm()))))
    for i, d in enumerate(delta):  # BF16 bits
        out["delta.%d" % i] = d.to(torch.bfloat16).view(torch.uint16).numpy()

    mid, spans = (70, K), [[70, K], [C - K - 1, K], [3, 17], [120, 64]]
    step0 = dump_span(o, out, "span_mid", ids, *mid, zeros(o), rng)
    for r in range(K):
        check("step-0 identity", step0[r], losses[mid[0] + r], 1e-9)
    dump_span(o, out, "span_delta", ids, *mid, delta, rng)
    dump_training(o, out, "adamw", ids, spans, "adamw", 1e-3, 0.01, 1.0)
    dump_perturbed(o, out, ids, 100, K)
    dump_question(o, out, ids, question, delta)
    if name in FULL:
        end = dump_span(o, out, "span_end", ids, C - K - 1, K, zeros(o), rng)
        check("step-0 identity", end.mean(), losses[-K:].mean(), 1e-9)
        dump_training(o, out, "adamw_wd", ids, spans, "adamw", 1e-3, 0.5, 1.0, half=True)
        gnorm = float(out["span_mid.gnorm"])
        dump_training(o, out, "sgd", ids, spans, "sgd", 0.05, 0.0, 0.5 * gnorm, half=True)
        dump_lora(o, out, ids, spans, rng)
        dump_recall(o, out, "recall", ids, [10, 150], zeros(o), rng)
        dump_recall(o, out, "recall_delta", ids, [10, 150], delta, rng)
    print("  span loss %.4f gnorm %.3g; adamw %s -> %.4f; perturbed %.4f; greedy %d; question moved by %.3f" % (
        out["span_mid.loss"], out["span_mid.gnorm"], np.round(out["adamw.loss"], 4), out["adamw.loss_after"],
        out["perturb.loss"], len(out["question.greedy"]),
        float(np.abs(out["question.base"] - out["question.adapted"]).max())))
    ttv.write(path, out)


def main():
    models, outdir = sys.argv[1], sys.argv[2]
    names = sys.argv[3:] or ["llama", "llama3", "linear", "mistral", "qwen2", "qwen3", "yarn", "gemma3"]
    for name in names:
        dump(models, name, "%s/tiny_%s.ttv" % (outdir, name))


if __name__ == "__main__":
    main()
