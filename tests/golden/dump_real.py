#!/usr/bin/env python3
"""Vectors of a real GGUF model: dump_real.py MODEL.gguf OUT.ttv

The weights are dequantised to float32 by the gguf module and put into transformers' model, which runs untouched in float32
over 2,000 positions of licence texts found on every Debian machine, in two chunks. Then one span's loss and gradient from
oracle.py in float64. Needs what dump_tiny.py needs."""

import sys

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize

import ttv
from oracle import Oracle

CHUNKS = (("/usr/share/common-licenses/Artistic", 1200), ("/usr/share/common-licenses/MPL-1.1", 800))
TOP, EXACT = 64, 250
SPAN_CONTEXT, SPAN_START, SPAN_K = 700, 550, 128


def field(reader, key, default=None):
    f = reader.fields.get(key)
    return default if f is None else f.contents()


def tokenise(reader, text):
    tokens = field(reader, "tokenizer.ggml.tokens")
    ids = {t: i for i, t in enumerate(tokens)}
    if field(reader, "tokenizer.ggml.model") == "gpt2":
        assert field(reader, "tokenizer.ggml.pre") == "smollm"
        from tokenizers import Tokenizer, models, pre_tokenizers
        merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
        tok = Tokenizer(models.BPE(ids, merges))
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return tok.encode(text).ids
    scores = field(reader, "tokenizer.ggml.scores")
    pieces = list(text.replace(" ", "\u2581"))
    while True:  # SentencePiece's rule, the plain way: the best pair first, the leftmost of equals
        best, at = -np.inf, -1
        for i in range(len(pieces) - 1):
            j = ids.get(pieces[i] + pieces[i + 1])
            if j is not None and scores[j] > best:
                best, at = scores[j], i
        if at < 0:
            return [ids[p] for p in pieces]
        pieces[at:at + 2] = [pieces[at] + pieces[at + 1]]


def encode(reader, path, n):
    """n ids of the text's beginning, line by line (SentencePiece merges do not cross a line's end here)."""
    text = open(path, encoding="utf-8").read()
    if field(reader, "tokenizer.ggml.model") == "gpt2":
        ids = tokenise(reader, text[:8 * n])
    else:
        ids = []
        for line in text.splitlines(keepends=True):
            ids += tokenise(reader, line)
            if len(ids) > n:
                break
    if field(reader, "tokenizer.ggml.add_bos_token"):
        ids = [field(reader, "tokenizer.ggml.bos_token_id")] + ids
    assert len(ids) >= n, (path, len(ids))
    return [int(i) for i in ids[:n]]


def build(reader):
    arch = field(reader, "general.architecture")

    def get(key, default=None):
        return field(reader, arch + "." + key, default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    tensors = {t.name: t for t in reader.tensors}
    common = dict(hidden_size=hidden, intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
                  num_attention_heads=heads, num_key_value_heads=get("attention.head_count_kv"),
                  vocab_size=int(tensors["token_embd.weight"].shape[1]), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
                  rope_theta=get("rope.freq_base"), max_position_embeddings=get("context_length"),
                  tie_word_embeddings="output.weight" not in tensors, attn_implementation="eager")
    if arch == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
        kind = gguf.MODEL_ARCH.LLAMA
    else:
        assert arch == "gemma3" and get("block_count") != 62
        head_dim = get("attention.key_length")
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
            head_dim=head_dim, query_pre_attn_scalar=head_dim, sliding_window=get("attention.sliding_window"),
            sliding_window_pattern=6, rope_local_base_freq=10000.0, **common))
        kind = gguf.MODEL_ARCH.GEMMA3
    names = gguf.get_tensor_name_map(kind, get("block_count"))
    state, used = {}, set()
    for hf, old in model.state_dict().items():
        gg = names.get_name(hf, try_suffixes=(".weight", ".bias"))
        if gg not in tensors:
            assert hf == "lm_head.weight" and common["tie_word_embeddings"], hf
            gg = "token_embd.weight"
        used.add(gg)
        w = dequantize(tensors[gg].data, tensors[gg].tensor_type).astype(np.float32)
        if arch == "llama" and gg.endswith(("attn_q.weight", "attn_k.weight")):
            n = heads if gg.endswith("q.weight") else common["num_key_value_heads"]
            w = w.reshape(n, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        if arch == "gemma3" and gg.endswith("norm.weight"):
            w = w - np.float32(1.0)
        state[hf] = torch.from_numpy(np.ascontiguousarray(w)).view(old.shape)
    assert used == set(tensors), set(tensors) - used
    model.load_state_dict(state)
    return model.eval()


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    model = build(reader)
    out, n_vocab = {}, model.config.vocab_size
    ids = [encode(reader, path, n + 1) for path, n in CHUNKS]
    lps, tops, rests, best, losses = [], [], [], [], []
    with torch.no_grad():
        for chunk in ids:
            hidden = model.model(torch.tensor([chunk[:-1]]), use_cache=False).last_hidden_state[0]
            for r in range(0, len(chunk) - 1, 100):
                lp = torch.log_softmax(model.lm_head(hidden[r:r + 100]).double(), -1)
                top = torch.topk(lp, TOP, dim=-1)
                lps.append(top.values)
                tops.append(top.indices)
                rests.append(torch.log1p(-top.values.exp().sum(-1)))
                best.append(top.indices[:, 0])
                losses.append(-lp[torch.arange(len(lp)), torch.tensor(chunk[r + 1:r + 1 + len(lp)])])
    lps, tops, rests, losses = torch.cat(lps), torch.cat(tops), torch.cat(rests), torch.cat(losses)
    for i, chunk in enumerate(ids):
        out["chunk%d.ids" % i] = np.array(chunk, np.int32)
    out["top_ids"] = tops.numpy().astype(np.uint16 if n_vocab <= 65536 else np.uint32)
    out["top_lp"] = lps.numpy().astype(np.float16)
    out["top_lp_exact"] = lps[:EXACT].numpy().astype(np.float32)
    out["rest_lp"] = rests.numpy().astype(np.float32)
    out["row_loss"] = losses.numpy().astype(np.float32)
    out["mean_loss"] = np.float64(losses.mean())
    margin = (lps[:, 0] - lps[:, 1]).numpy()
    print("%s: %d positions, mean loss %.4f, rest %.4f, top-2 margin < 0.05 at %.1f %%" % (
        sys.argv[1].split("/")[-1], len(losses), losses.mean(), rests.exp().mean(), 100 * (margin < 0.05).mean()))

    context = ids[0][:SPAN_CONTEXT]
    o = Oracle(model=model)
    logits = o.prefill(context)
    lp = torch.log_softmax(logits, -1)[:EXACT]
    kl = (lps[:EXACT].exp() * (lps[:EXACT] - torch.gather(lp, 1, tops[:EXACT]))).sum(-1)
    print("  float32 against float64: KL %.1e, attention peak %.2f" % (kl.mean(), o.peak / o.layers))
    o.delta = [torch.zeros_like(o.wq(i)).requires_grad_(True) for i in range(o.layers)]
    span = o.span(context, SPAN_START, SPAN_K)
    g = torch.autograd.grad(span.mean(), o.delta)
    plain = losses[SPAN_START:SPAN_START + SPAN_K].mean()
    assert abs(float(span.mean() - plain)) < 1e-4, (span.mean(), plain)
    rng, picked = np.random.default_rng(1), []
    for i in range(o.layers):
        picked.append(rng.integers(0, g[i].numel(), 64))
    out["span"] = np.array([SPAN_CONTEXT, SPAN_START, SPAN_K], np.int32)
    out["span.loss"] = np.float64(span.mean().detach())
    out["span.layer_gnorm"] = np.array([float(x.norm()) for x in g], np.float64)
    out["span.picked"] = np.array(picked, np.int32)
    out["span.picked_g"] = np.array([x.numpy().ravel()[p] for x, p in zip(g, picked)], np.float64)
    print("  span loss %.4f, gradient norm %.4f" % (out["span.loss"], np.linalg.norm(out["span.layer_gnorm"])))
    ttv.write(sys.argv[2], out)


if __name__ == "__main__":
    main()
