#!/usr/bin/env python3
"""random_model.py TYPE OUT.gguf - a Llama of random weights in the shape of TinyLlama-1.1B, for measurements of speed where
no real model of a size and type is at hand. TYPE: Q8_0, Q4_0, Q4_K_M, BF16; the file takes 0.6 to 2.2 GB.

What llama.cpp's quantiser would choose is chosen here: Q4_0 has a Q6_K head, Q4_K_M has Q6_K for the head and for half of
the value and down matrices. Metadata and vocabulary (32,000 pieces, SentencePiece) are complete, so that other programs load
it too; what it says means nothing. Weights are uniform (BF16: normal) with deviations that keep activations of the order of
1. They come out of a pool of blocks, each row from another place, so that writing is as fast as the disk.
Standard library; the same bytes on every machine."""
import argparse
import pathlib
import random
import string
import struct
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
from tiny_files import GGUF_BOOL, GGUF_F32, GGUF_I32, GGUF_STRING, GGUF_U32, pack, write_gguf  # noqa: E402

FILE_TYPE = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15, "BF16": 32}  # general.file_type
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
POOL = 1 << 20  # values


def half(x):
    return struct.pack("<e", x)


def bf16(rng, rms):
    """The upper halves of normal numbers in F32."""
    raw = struct.pack("<65536f", *(rng.gauss(0, rms) for _ in range(65536)))
    return [raw[4 * i + 2:4 * i + 4] for i in range(65536)]


def q8_0(rng, rms):
    """32 values: scale in f16, int8 each."""
    return [half(rms / 73.9) + rng.randbytes(32) for _ in range(POOL // 32)]


def q4_0(rng, rms):
    """32 values: scale in f16, 4 bits each, 8 is zero. As uniform ones have a mean, half of the scales are negative."""
    d = rms / 4.61
    return [half(rng.choice((d, -d))) + rng.randbytes(16) for _ in range(POOL // 32)]


def q4_k(rng, rms):
    """256 values: scale and its minimum's in f16; eight scales and minima of 6 bits, all of them 32; 4 bits each."""
    d = rms / (4.61 * 32)
    head = half(d) + half(7.5 * d) + bytes([32 | 2 << 6] * 8 + [0] * 4)
    return [head + rng.randbytes(128) for _ in range(POOL // 256)]


def q6_k(rng, rms):
    """256 values: 4 low bits, 2 high bits each, 32 is zero; sixteen scales in int8; scale in f16."""
    tail = bytes([32, 256 - 32] * 8) + half(rms / (18.47 * 32))
    return [rng.randbytes(192) + tail for _ in range(POOL // 256)]


BLOCKS = {"BF16": (1, 2, bf16), "Q8_0": (32, 34, q8_0), "Q4_0": (32, 18, q4_0), "Q4_K": (256, 144, q4_k), "Q6_K": (256, 210, q6_k)}


class Pools:
    def __init__(self):
        self.rng, self.made = random.Random(1), {}

    def get(self, kind, rms):
        if (kind, rms) not in self.made:
            self.made[kind, rms] = b"".join(BLOCKS[kind][2](random.Random(2), rms))
        return self.made[kind, rms]


class Matrix:
    """Bytes of rows x cols, made as they are written."""

    def __init__(self, pools, kind, rows, cols, rms):
        elems, self.block, _ = BLOCKS[kind]
        if cols % elems:
            raise SystemExit(f"rows of {cols} do not fit into blocks of {elems}: another type or width")
        self.pools, self.kind, self.rows, self.row, self.rms = pools, kind, rows, cols // elems * self.block, rms

    def __len__(self):
        return self.rows * self.row

    def __iter__(self):
        pool = self.pools.get(self.kind, self.rms)
        pool = memoryview(pool * (1 + self.row // len(pool) + 1))
        places = len(pool) // self.block - self.row // self.block
        for _ in range(self.rows):
            at = self.pools.rng.randrange(places) * self.block
            yield pool[at:at + self.row]


def vocabulary(n):
    """(piece, score, kind): bytes, characters, then syllables as long as there is room; a shorter piece is likelier."""
    out = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    out += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    low, blank = string.ascii_lowercase, "\u2581"
    pairs = [a + b for a in low for b in low]
    pieces = [blank, *string.ascii_letters, *string.digits, *string.punctuation, *pairs, *(blank + a for a in low),
              *(blank + p for p in pairs), *(p + a for p in pairs for a in low), *(blank + p + a for p in pairs for a in low)]
    out += [(p, -float(i), NORMAL) for i, p in enumerate(pieces)]
    if not 400 <= n <= len(out):
        raise SystemExit(f"a vocabulary has 400 to {len(out)} pieces")
    return out[:n]


def pairs(o, vocab):
    head_dim = o.hidden // o.heads
    pieces, scores, kinds = zip(*vocab)
    return [
        ("general.architecture", GGUF_STRING, "llama"), ("general.name", GGUF_STRING, f"Random {o.type}"),
        ("general.file_type", GGUF_U32, FILE_TYPE[o.type]), ("general.quantization_version", GGUF_U32, 2),
        ("llama.context_length", GGUF_U32, o.context), ("llama.embedding_length", GGUF_U32, o.hidden),
        ("llama.block_count", GGUF_U32, o.layers), ("llama.feed_forward_length", GGUF_U32, o.ffn),
        ("llama.attention.head_count", GGUF_U32, o.heads), ("llama.attention.head_count_kv", GGUF_U32, o.kv_heads),
        ("llama.rope.dimension_count", GGUF_U32, head_dim), ("llama.rope.freq_base", GGUF_F32, 10000.0),
        ("llama.attention.layer_norm_rms_epsilon", GGUF_F32, 1e-5), ("llama.vocab_size", GGUF_U32, len(vocab)),
        ("tokenizer.ggml.model", GGUF_STRING, "llama"), ("tokenizer.ggml.pre", GGUF_STRING, "default"),
        ("tokenizer.ggml.tokens", GGUF_STRING, list(pieces)), ("tokenizer.ggml.scores", GGUF_F32, list(scores)),
        ("tokenizer.ggml.token_type", GGUF_I32, list(kinds)), ("tokenizer.ggml.bos_token_id", GGUF_U32, 1),
        ("tokenizer.ggml.eos_token_id", GGUF_U32, 2), ("tokenizer.ggml.unknown_token_id", GGUF_U32, 0),
        ("tokenizer.ggml.add_bos_token", GGUF_BOOL, True), ("tokenizer.ggml.add_eos_token", GGUF_BOOL, False)]


def more_bits(i, n):
    """The layers whose value and down matrices a Q4_K_M file has in Q6_K."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def tensors(o):
    pools = Pools()
    base = {"Q4_K_M": "Q4_K"}.get(o.type, o.type)
    head = "Q6_K" if base.startswith("Q4") else base
    kv, one, deep = o.hidden // o.heads * o.kv_heads, o.hidden ** -0.5, (2 * o.layers) ** -0.5
    norm = pack([1.0] * o.hidden, "F32")

    def matrix(name, rows, cols, rms, kind=base):
        return f"{name}.weight", (rows, cols), kind, Matrix(pools, kind, rows, cols, rms)

    out = [matrix("token_embd", o.vocab, o.hidden, 0.5)]
    for i in range(o.layers):
        at, more = f"blk.{i}.", "Q6_K" if o.type == "Q4_K_M" and more_bits(i, o.layers) else base
        out += [(at + "attn_norm.weight", (o.hidden,), "F32", norm), (at + "ffn_norm.weight", (o.hidden,), "F32", norm),
                matrix(at + "attn_q", o.hidden, o.hidden, one), matrix(at + "attn_k", kv, o.hidden, one),
                matrix(at + "attn_v", kv, o.hidden, one, more), matrix(at + "attn_output", o.hidden, o.hidden, one * deep),
                matrix(at + "ffn_gate", o.ffn, o.hidden, one), matrix(at + "ffn_up", o.ffn, o.hidden, one),
                matrix(at + "ffn_down", o.hidden, o.ffn, o.ffn ** -0.5 * deep, more)]
    return [*out, ("output_norm.weight", (o.hidden,), "F32", norm), matrix("output", o.vocab, o.hidden, 2 * one, head)]


def main():
    p = argparse.ArgumentParser(description="a Llama of random weights as GGUF")
    p.add_argument("type", choices=FILE_TYPE, type=str.upper)
    p.add_argument("out")
    for name, size in (("layers", 22), ("hidden", 2048), ("ffn", 5632), ("heads", 32), ("kv-heads", 4), ("vocab", 32000),
                       ("context", 8192)):
        p.add_argument(f"--{name}", type=int, default=size, help=f"[{size}]")
    o = p.parse_args()
    write_gguf(o.out, pairs(o, vocabulary(o.vocab)), tensors(o))


if __name__ == "__main__":
    main()
