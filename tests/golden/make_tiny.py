#!/usr/bin/env python3
"""Makes the tiny random models of the golden tests: make_tiny.py OUTDIR [FAMILY ...]

Each family becomes OUTDIR/FAMILY (a Hugging Face folder: config.json, model.safetensors, tokenizer.json) and
OUTDIR/FAMILY.gguf, with bit-identical weights. Standard library only; deterministic. The vectors in tests/golden/*.ttv
were computed by dump_tiny.py from these very files; change anything here and they must be dumped again."""

import math
import os
import sys

import tiny_vocab
from tiny_files import (GGUF_BOOL, GGUF_F32, GGUF_STRING, GGUF_U32, Generator, Tensor, pack, pack_q8_0, write_gguf,
                        write_json, write_safetensors)

HIDDEN, FFN, CONTEXT, EPS = 64, 128, 2048, 2.0 ** -17


def family(name, **options):
    f = dict(name=name, arch="llama", hf_type="llama", hf_class="LlamaForCausalLM", layers=3, heads=4, kv_heads=2,
             head_dim=16, theta=10000.0, tied=False, bias=False, q_norm=False, gemma=False, scaling=None, vocab="smollm",
             hf_dtype="BF16", gguf_dtype="F16", shifts={})
    f.update(options)
    return f


FAMILIES = [
    family("llama", gguf_dtype="Q8_0"),
    family("llama3", theta=500000.0, tied=True, vocab="llama-bpe", hf_dtype="F16", gguf_dtype="BF16",
           scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                        original_max_position_embeddings=256)),
    family("linear", layers=2, gguf_dtype="F32", scaling=dict(type="linear", factor=4.0)),
    family("mistral", hf_type="mistral", hf_class="MistralForCausalLM", heads=6, vocab="spm", hf_dtype="F32"),
    family("qwen2", arch="qwen2", hf_type="qwen2", hf_class="Qwen2ForCausalLM", bias=True, tied=True, theta=1000000.0,
           vocab="qwen2"),
    family("qwen3", arch="qwen3", hf_type="qwen3", hf_class="Qwen3ForCausalLM", q_norm=True, layers=2, head_dim=32, tied=True,
           theta=1000000.0, vocab="qwen2", gguf_dtype="BF16"),
    family("yarn", arch="qwen3", hf_type="qwen3", hf_class="Qwen3ForCausalLM", q_norm=True, layers=2, head_dim=32,
           theta=10000.0, vocab="qwen2",
           scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=512)),
    family("gemma3", arch="gemma3", hf_type="gemma3_text", hf_class="Gemma3ForCausalLM", gemma=True, q_norm=True,
           layers=7, heads=2, kv_heads=1, head_dim=32, theta=1000000.0, tied=True, vocab="gemma", window=32,
           query_scalar=24.0, shifts=dict(embed=8)),
]


def hf_config(f, v):
    c = {"architectures": [f["hf_class"]], "model_type": f["hf_type"], "hidden_size": HIDDEN,
         "intermediate_size": FFN, "num_hidden_layers": f["layers"], "num_attention_heads": f["heads"],
         "num_key_value_heads": f["kv_heads"], "head_dim": f["head_dim"], "vocab_size": tiny_vocab.N_VOCAB,
         "max_position_embeddings": CONTEXT, "rms_norm_eps": EPS, "rope_theta": f["theta"],
         "tie_word_embeddings": f["tied"], "hidden_act": "silu", "attention_dropout": 0.0, "use_cache": True,
         "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[f["hf_dtype"]],
         "eos_token_id": v.eos, "transformers_version": "4.51.3"}
    if v.bos >= 0:
        c["bos_token_id"] = v.bos
    if f["hf_type"] != "qwen2":
        c["attention_bias"] = False
    else:
        del c["head_dim"]
    if f["hf_type"] in ("qwen2", "qwen3"):
        c["use_sliding_window"] = False
    if f["hf_type"] == "mistral":
        c["sliding_window"] = None
    if f["scaling"] or f["hf_type"] == "llama":
        c["rope_scaling"] = f["scaling"]
    if f["gemma"]:
        del c["hidden_act"]
        kinds = ["sliding_attention" if sliding(f, i) else "full_attention" for i in range(f["layers"])]
        c.update(hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=f["query_scalar"],
                 sliding_window=f["window"], sliding_window_pattern=6, layer_types=kinds, rope_local_base_freq=10000.0,
                 rope_scaling=None, final_logit_softcapping=None, attn_logit_softcapping=None, pad_token_id=v.pad)
    return c


def sliding(f, layer):
    return f["gemma"] and (layer + 1) % 6 != 0


def gguf_pairs(f, v):
    arch = f["arch"]
    pairs = [("general.architecture", GGUF_STRING, arch), ("general.name", GGUF_STRING, "tiny-" + f["name"])]

    def add(key, kind, value):
        pairs.append((arch + "." + key, kind, value))

    add("block_count", GGUF_U32, f["layers"])
    add("context_length", GGUF_U32, CONTEXT)
    add("embedding_length", GGUF_U32, HIDDEN)
    add("feed_forward_length", GGUF_U32, FFN)
    add("attention.head_count", GGUF_U32, f["heads"])
    add("attention.head_count_kv", GGUF_U32, f["kv_heads"])
    add("attention.layer_norm_rms_epsilon", GGUF_F32, EPS)
    add("rope.freq_base", GGUF_F32, f["theta"])
    if f["head_dim"] * f["heads"] != HIDDEN or f["gemma"] or f["hf_type"] == "qwen3":
        add("attention.key_length", GGUF_U32, f["head_dim"])
        add("attention.value_length", GGUF_U32, f["head_dim"])
    if arch == "llama":
        add("rope.dimension_count", GGUF_U32, f["head_dim"])
        add("vocab_size", GGUF_U32, tiny_vocab.N_VOCAB)
    if f["gemma"]:
        add("attention.sliding_window", GGUF_U32, f["window"])
        add("attention.scale", GGUF_F32, f["query_scalar"] ** -0.5)
    kind = (f["scaling"] or {}).get("rope_type", (f["scaling"] or {}).get("type"))
    if kind in ("linear", "yarn"):
        add("rope.scaling.type", GGUF_STRING, kind)
        add("rope.scaling.factor", GGUF_F32, f["scaling"]["factor"])
    if kind == "yarn":
        add("rope.scaling.original_context_length", GGUF_U32, f["scaling"]["original_max_position_embeddings"])
        add("rope.scaling.finetuned", GGUF_BOOL, True)
    return pairs + v.gguf_pairs()


def weights(f):
    """(Hugging Face name, GGUF name, Tensor) of every tensor. Scales: attention scores of a few nats, logits far from
    flat, every branch of the residual stream of the same order."""
    g = Generator(int.from_bytes(("qttt-" + f["name"]).ljust(16).encode()[:16], "little"))
    shifts = dict(embed=7 if f["tied"] else 6, q=7, k=8, v=7, o=8, gate=7, up=7, down=9, head=7)
    shifts.update(f["shifts"])
    out = []
    nq, nk = f["heads"] * f["head_dim"], f["kv_heads"] * f["head_dim"]

    def matrix(hf, gguf, kind, rows, cols):
        out.append((hf, gguf, Tensor((rows, cols), g.integers(rows * cols), shifts[kind])))

    def vector(hf, gguf, n, shift, base):
        # an eighth of the range: 1 + n / 64 and the like are exact in BF16; Gemma stores w - 1
        values = [x // 8 for x in g.integers(n)]
        norm = gguf.endswith("norm.weight")
        out.append((hf, gguf, Tensor((n,), values, shift, base - 1.0 if norm and f["gemma"] else base)))

    matrix("model.embed_tokens.weight", "token_embd.weight", "embed", tiny_vocab.N_VOCAB, HIDDEN)
    for i in range(f["layers"]):
        hf, gg = "model.layers.%d." % i, "blk.%d." % i
        vector(hf + "input_layernorm.weight", gg + "attn_norm.weight", HIDDEN, 6, 1.0)
        for n, rows in (("q", nq), ("k", nk), ("v", nk)):
            matrix(hf + "self_attn.%s_proj.weight" % n, gg + "attn_%s.weight" % n, n, rows, HIDDEN)
            if f["bias"]:
                vector(hf + "self_attn.%s_proj.bias" % n, gg + "attn_%s.bias" % n, rows, 4, 0.0)
            if f["q_norm"] and n != "v":
                vector(hf + "self_attn.%s_norm.weight" % n, gg + "attn_%s_norm.weight" % n, f["head_dim"], 5, 1.5)
        matrix(hf + "self_attn.o_proj.weight", gg + "attn_output.weight", "o", HIDDEN, nq)
        if f["gemma"]:
            vector(hf + "post_attention_layernorm.weight", gg + "post_attention_norm.weight", HIDDEN, 6, 0.75)
            vector(hf + "pre_feedforward_layernorm.weight", gg + "ffn_norm.weight", HIDDEN, 6, 1.0)
            vector(hf + "post_feedforward_layernorm.weight", gg + "post_ffw_norm.weight", HIDDEN, 6, 0.75)
        else:
            vector(hf + "post_attention_layernorm.weight", gg + "ffn_norm.weight", HIDDEN, 6, 1.0)
        matrix(hf + "mlp.gate_proj.weight", gg + "ffn_gate.weight", "gate", FFN, HIDDEN)
        matrix(hf + "mlp.up_proj.weight", gg + "ffn_up.weight", "up", FFN, HIDDEN)
        matrix(hf + "mlp.down_proj.weight", gg + "ffn_down.weight", "down", HIDDEN, FFN)
    vector("model.norm.weight", "output_norm.weight", HIDDEN, 6, 1.0)
    if not f["tied"]:
        matrix("lm_head.weight", "output.weight", "head", tiny_vocab.N_VOCAB, HIDDEN)
    return out


def permuted(t, heads):
    """Llama files in GGUF pair RoPE's elements (2i, 2i + 1): row j * d/2 + i of a head moves to 2i + j."""
    rows, cols = t.shape
    half = rows // heads // 2
    values = []
    for h in range(heads):
        for i in range(half):
            for j in range(2):
                r = (h * 2 + j) * half + i
                values += t.values[r * cols:(r + 1) * cols]
    return Tensor(t.shape, values, t.shift)


def rope_factors(f):
    """Llama 3's scaling as GGUF carries it: inv_freq is divided by rope_freqs."""
    s, out = f["scaling"], []
    for i in range(f["head_dim"] // 2):
        wavelen = 2 * math.pi * f["theta"] ** (2 * i / f["head_dim"])
        turns = s["original_max_position_embeddings"] / wavelen
        if turns > s["high_freq_factor"]:
            out.append(1.0)
        elif turns < s["low_freq_factor"]:
            out.append(s["factor"])
        else:
            smooth = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            out.append(1.0 / ((1.0 - smooth) / s["factor"] + smooth))
    return out


def gguf_tensors(f, tensors):
    out = []
    if (f["scaling"] or {}).get("rope_type") == "llama3":
        out.append(("rope_freqs.weight", (f["head_dim"] // 2,), "F32", pack(rope_factors(f), "F32")))
    for _, name, t in tensors:
        if len(t.shape) == 1:
            add = 1.0 if f["gemma"] and name.endswith("norm.weight") else 0.0
            out.append((name, t.shape, "F32", pack(t.floats(add), "F32")))
            continue
        if f["arch"] == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            t = permuted(t, f["heads"] if name.endswith("q.weight") else f["kv_heads"])
        blob = pack_q8_0(t) if f["gguf_dtype"] == "Q8_0" else pack(t.floats(), f["gguf_dtype"])
        out.append((name, t.shape, f["gguf_dtype"], blob))
    return out


def make(f, outdir):
    v, tensors = tiny_vocab.make(f["vocab"]), weights(f)
    folder = os.path.join(outdir, f["name"])
    write_json(os.path.join(folder, "config.json"), hf_config(f, v))
    write_json(os.path.join(folder, "tokenizer.json"), v.tokenizer_json())
    write_json(os.path.join(folder, "tokenizer_config.json"), v.tokenizer_config())
    write_json(os.path.join(folder, "generation_config.json"), {"eos_token_id": v.eos})
    write_safetensors(os.path.join(folder, "model.safetensors"), [(hf, t) for hf, _, t in tensors], f["hf_dtype"])
    write_gguf(folder + ".gguf", gguf_pairs(f, v), gguf_tensors(f, tensors))


def main():
    outdir, wanted = sys.argv[1], sys.argv[2:]
    for f in FAMILIES:
        if not wanted or f["name"] in wanted:
            make(f, outdir)
    with open(os.path.normpath(outdir) + ".stamp", "w") as stamp:
        stamp.write("ok\n")


if __name__ == "__main__":
    main()
