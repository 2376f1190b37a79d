#!/usr/bin/env python3
"""small_model.py REAL.gguf OUT.gguf [CONTEXT] - a model with the vocabulary, the chat template and the context of a real Llama-like
file, and six small layers of random weights: for tests of the server where its real size costs minutes (sanitizers).

Its answers are words at random, but always the same ones. Whole words in lower case with a blank before them are made
likeliest by far, so that a greedy answer reads back as the tokens it was made of, as a real model's does, and neither
ends by itself nor leaves half a character. Standard library and gguf_vocab.py; the same bytes on every machine."""
import pathlib
import random
import re
import struct
import sys

from gguf_vocab import GGUF

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
from tiny_files import pack, write_gguf  # noqa: E402 (its folder is known only now)

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN = 6, 96, 3, 1, 256
HEAD_DIM = HIDDEN // HEADS
WORD = re.compile("\u0120[a-z]{2,}")  # as byte-level BPE writes a blank
SIZES = {"block_count": LAYERS, "embedding_length": HIDDEN, "feed_forward_length": FFN, "attention.head_count": HEADS,
         "attention.head_count_kv": KV_HEADS, "rope.dimension_count": HEAD_DIM}


def pairs(real):
    """The real file's metadata with the sizes of ours."""
    arch = real.fields["general.architecture"]
    sizes = {f"{arch}.{key}": value for key, value in SIZES.items()}
    if len(sys.argv) > 3:
        sizes[f"{arch}.context_length"] = int(sys.argv[3])
    missing = set(sizes) - set(real.fields)
    if missing:
        sys.exit(f"the model has no {', '.join(sorted(missing))}")
    named = {**real.fields, **sizes, "general.name": "Small random"}
    return [(key, real.kinds[key], value) for key, value in named.items()]


def q4_1(rng, rows, cols, rms):
    """Blocks of 32: scale and minimum in f16, 16 bytes of two values each; uniform, of mean zero."""
    step = rms / 4.61  # the deviation of 0 .. 15
    head = struct.pack("<ee", step, -7.5 * step)
    noise = rng.randbytes(rows * cols // 2)
    return b"".join(head + noise[i:i + 16] for i in range(0, len(noise), 16))


def q8_0(rng, rms_of_row, cols):
    """Blocks of 32: scale in f16, 32 int8."""
    out = []
    for rms in rms_of_row:
        head = struct.pack("<e", rms / 73.9)  # the deviation of -128 .. 127
        noise = rng.randbytes(cols)
        out += [head + noise[i:i + 32] for i in range(0, cols, 32)]
    return b"".join(out)


def tensors(tokens):
    """Scales: attention scores of a few nats, branches of the order of 1 beside an embedding of a quarter, so that the
    likeliest token is not the one just read; logits of a deviation of 2.5 for words and of 0.6 for the rest."""
    rng = random.Random(1)

    def matrix(name, rows, cols, rms):
        return name, (rows, cols), "Q4_1", q4_1(rng, rows, cols, rms)

    def norm(name):
        return name, (HIDDEN,), "F32", pack([rng.randint(48, 80) / 64 for _ in range(HIDDEN)], "F32")

    out = [("token_embd.weight", (len(tokens), HIDDEN), "Q8_0",
            q8_0(rng, [0.25 if WORD.fullmatch(t) else 0.0625 for t in tokens], HIDDEN))]
    one = HIDDEN ** -0.5  # keeps the deviation of what goes in
    for i in range(LAYERS):
        at = f"blk.{i}."
        out += [norm(at + "attn_norm.weight"), norm(at + "ffn_norm.weight"),
                matrix(at + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN, 1.5 * one),
                matrix(at + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN, 1.5 * one),
                matrix(at + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN, 2 * one),
                matrix(at + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM, one),
                matrix(at + "ffn_gate.weight", FFN, HIDDEN, 2 * one), matrix(at + "ffn_up.weight", FFN, HIDDEN, one),
                matrix(at + "ffn_down.weight", HIDDEN, FFN, FFN ** -0.5)]
    return [*out, norm("output_norm.weight")]


def main():
    real = GGUF(sys.argv[1])
    write_gguf(sys.argv[2], pairs(real), tensors(real.fields["tokenizer.ggml.tokens"]))


if __name__ == "__main__":
    main()
