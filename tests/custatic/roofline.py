#!/usr/bin/env python3
"""Writes docs/cuda_roofline.md: what each launch of the CUDA backend has to move and to compute, and how long that takes at best.

    roofline.py             prints the page
    roofline.py --update    writes it
    roofline.py --check     compares it with the committed one, and its sums with core/cost.c's formula

Nothing is measured. Shapes are Qwen3-4B's, the order of launches is that of core/forward.c and core/backward.c, names of kernels
come from kernels.table. Standard library only.
"""
import argparse
import dataclasses
import difflib
import fnmatch
import pathlib
import sys

import kernel_table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, TABLE = ROOT / "docs/cuda_roofline.md", pathlib.Path(__file__).resolve().parent / "kernels.table"

# Qwen3-4B, from its config.json.
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2560, 36, 32, 8, 128, 9728, 151936
NQ, NK = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
CONTEXT, CHUNK, SPAN = 32768, 2048, 128
HEAD_BLOCK = 8192  # TT_HEAD_BLOCK of core/step_priv.h
SPLIT = 256  # keys of one run in decode
PASS = 512  # rows of every call of cuBLAS (product_cuda.h): a step of fewer is filled up

F32, BF16 = 4, 2
Q4_K, Q6_K = 144 / 256, 210 / 256  # bytes of a weight: kernels/dtype.c
SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    bytes: float  # a second
    tensor: float  # BF16 products with FP32 sums, dense, a second
    fp32: float
    memory: float


# NVIDIA's data sheets: A100 80GB SXM, H100 SXM.
PARTS = (Part("A100", 2039e9, 312e12, 19.5e12, 80e9), Part("H100", 3350e9, 989.4e12, 66.9e12, 80e9))


@dataclasses.dataclass
class Launch:
    """A kind of launch: how often in a step, and what one of them moves and computes."""
    op: str
    kernels: str  # patterns of names in kernels.table; "cuBLAS"
    count: float
    bytes: float
    flops: float
    tensor: bool = False
    useful: float = -1.0  # operations without what a pass was filled up with; -1: all of them

    def seconds(self, part):
        """Of one."""
        return max(self.bytes / part.bytes, self.flops / (part.tensor if self.tensor else part.fp32)) / SHARE

    def bound(self, part):
        return "memory" if self.bytes / part.bytes >= self.flops / (part.tensor if self.tensor else part.fp32) else "compute"


def total(launches, part):
    return sum(w.count * w.seconds(part) for w in launches)


# ---- launches: rows x of a step; all sizes in elements ----

def embed(x):
    return Launch("embed", "embed_kernel*", 1, x * HIDDEN * (Q6_K + F32), 2 * x * HIDDEN)


def norm(x, count, what="rmsnorm"):
    return Launch(what, "rmsnorm_kernel", count, F32 * (2 * x * HIDDEN + HIDDEN), 4 * x * HIDDEN)


def rounded(n, what, count):
    return Launch(what, "to_bf16_kernel", count, n * (F32 + BF16), n)


def panel(n, quantised, what, count):
    """Weights to BF16, right before a product."""
    return Launch(what, "*panel*|*dequant*", count, n * (quantised + BF16), 2 * n)


def passes(x):
    return -(-x // PASS)


def operand(x, cols, what, count):
    """Rows to BF16 by the kernel that makes panels, filled up with zeros to whole passes."""
    return Launch(f"{what}: input to BF16", "*panel*", count, x * cols * F32 + passes(x) * PASS * cols * BF16, x * cols)


def gemm(x, rows, cols, what, count, accumulate=False, useful=-1.0):
    """y[x, rows] (+)= x[x, cols] W[rows, cols]^T by cuBLAS, BF16 operands."""
    bytes_ = BF16 * (x * cols + rows * cols) + F32 * x * rows * (2 if accumulate else 1)
    return Launch(what, "cuBLAS", count, bytes_, 2 * x * rows * cols, True, useful)


def calls(x, rows, cols, what, count, accumulate=False):
    """A pass a call, each of PASS rows; a short one is computed aside and its rows copied, there and back."""
    launches = [gemm(PASS, rows, cols, what, count * passes(x), accumulate, 2 * (x / passes(x)) * rows * cols)]
    short = x % PASS
    if short:
        launches.append(Launch(f"{what}: rows copied", "cudaMemcpy2DAsync", count * (2 if accumulate else 1), F32 * 2 * short * rows, 0))
    return launches


def product(x, weights, cols, what, count, accumulate=False):
    """Products of many rows with weights [rows, cols], given as (rows, how many): the input rounded once, then each weight as
    a panel and its calls."""
    launches = [operand(x, cols, what, count)]
    for rows, n in weights:
        one = f"{what} [{rows:,}]" if len(weights) > 1 else what
        launches += [panel(rows * cols, Q4_K, f"{one}: weights to BF16", count * n), *calls(x, rows, cols, one, count * n, accumulate)]
    return launches


def back(x, rows, n, cols, what, count, accumulate=False):
    """dx[x, cols] (+)= the sum over n weights [rows, cols] of dy W: for each its dy rounded, a panel, calls. All but the first
    accumulate."""
    launches = [operand(x, rows, what, count * n), panel(rows * cols, Q4_K, f"{what}: weights to BF16", count * n)]
    launches += calls(x, cols, rows, what if n == 1 else f"{what}, the first", count, accumulate)
    return launches + (calls(x, cols, rows, f"{what}, the others", count * (n - 1), True) if n > 1 else [])


def adapter_panel(what, count):
    """D of a layer, FP32."""
    return panel(NQ * HIDDEN, F32, what, count)


def few_rows(x, rows, cols, weight, what, count, accumulate=False):
    """A product of few rows, by tensor cores straight from the blocks of the weights, which leave memory once."""
    bytes_ = rows * cols * weight + F32 * (x * cols + x * rows * (2 if accumulate else 1))
    return Launch(what, "few_rows*|matvec*", count, bytes_, 2 * x * rows * cols, True)


def qk_rope(x, count, stored=True, keep=False):
    moved = F32 * x * NQ * (3 if keep else 2) + (x * 2 * NK * (F32 + BF16) if stored else 0)
    return Launch("bias, norm, RoPE, pages", "qk_rope_kernel", count, moved, 10 * x * (NQ + (NK if stored else 0)))


def attention(x, first, count, lse=False):
    """Rows at positions first .. first + x - 1; each page is read from memory once, further reads find it in the L2 cache."""
    keys = x * first + x * (x + 1) / 2
    moved = F32 * x * NQ * 2 + (first + x) * 2 * NK * BF16 + (F32 * x * HEADS if lse else 0)
    return Launch("attention", "attention_kernel*|attention_fwd*|attention_prefill*", count, moved, 4 * NQ * keys, True)


def gated(x, count):
    return Launch("gated", "gated_kernel", count, F32 * 3 * x * FFN, 10 * x * FFN)


def copy(x, count):
    return Launch("residual copied", "cudaMemcpyAsync", count, F32 * 2 * x * HIDDEN, 0)


# ---- what the server does ----

def prefill_chunk(first):
    """CHUNK rows that begin at position `first`. The last layer is counted like the others."""
    x, n = CHUNK, LAYERS
    return [embed(x), norm(x, 2 * n), *product(x, [(NQ, 1), (NK, 2)], HIDDEN, "q, k, v", n), qk_rope(x, n),
            attention(x, first, n), *product(x, [(HIDDEN, 1)], NQ, "o", n, True), *product(x, [(FFN, 2)], HIDDEN, "gate, up", n),
            gated(x, n), *product(x, [(HIDDEN, 1)], FFN, "down", n, True)]


def qttt_forward(x, first):
    n = LAYERS
    return [embed(x), norm(x, 2 * n + 1), *product(x, [(NQ, 1)], HIDDEN, "q", n), operand(x, HIDDEN, "adapter", n),
            adapter_panel("adapter: D to BF16", n), *calls(x, NQ, HIDDEN, "adapter: x D^T", n, True), qk_rope(x, n, False, True),
            attention(x, first, n, True), copy(x, 2 * n), *product(x, [(HIDDEN, 1)], NQ, "o", n, True),
            *product(x, [(FFN, 2)], HIDDEN, "gate, up", n), gated(x, n), *product(x, [(HIDDEN, 1)], FFN, "down", n, True)]


def qttt_head(x):
    """Forward and backward in blocks of vocabulary columns; logits of a block lie in scratch memory, and are made twice."""
    n = -(-VOCAB // HEAD_BLOCK)
    c = VOCAB / n
    return [rounded(x * HIDDEN, "head: input to BF16", 2 * n), panel(c * HIDDEN, Q6_K, "head: weights to BF16", 2 * n),
            gemm(x, c, HIDDEN, "head: logits", 2 * n),
            Launch("head: maximum and sum", "head_fwd_kernel*", n, F32 * x * c, 4 * x * c),
            Launch("head: loss", "head_finish_kernel", 1, F32 * x * 5, 4 * x),
            Launch("head: softmax - target", "head_bwd_kernel*", n, (F32 + BF16) * x * c, 4 * x * c),
            gemm(x, HIDDEN, c, "head: dx", n, True)]


def qttt_backward(x, first):
    n, below = LAYERS, LAYERS - 1
    keys = x * first + x * (x + 1) / 2
    return [Launch("rmsnorm_bwd", "rmsnorm_bwd_kernel", 2 * n, F32 * (x * HIDDEN * 4 + HIDDEN), 10 * x * HIDDEN),
            *back(x, HIDDEN, 1, FFN, "down, back", n), Launch("gated_bwd", "gated_bwd_kernel", n, F32 * 5 * x * FFN, 20 * x * FFN),
            *back(x, FFN, 2, HIDDEN, "gate, up, back", n), *back(x, HIDDEN, 1, NQ, "o, back", n),
            Launch("attention_bwd", "attention_bwd*", n, F32 * x * NQ * 4 + (first + x) * 2 * NK * BF16 + F32 * x * HEADS,
                   6 * NQ * keys, True),
            Launch("RoPE and norm, back", "q_rope_bwd_kernel", n, F32 * 3 * x * NQ, 15 * x * NQ), norm(x, n, "input normed again"),
            operand(x, NQ, "adapter, gradient: dq", n), operand(x, HIDDEN, "adapter, gradient: x", n),
            gemm(NQ, HIDDEN, x, "adapter: gradient dq^T x", n), *back(x, NQ, 1, HIDDEN, "q, back", below),
            operand(x, NQ, "adapter, back", below), adapter_panel("adapter: D to BF16 again", below),
            *calls(x, HIDDEN, NQ, "adapter: dq D", below, True)]


def qttt_optimiser():
    n = NQ * HIDDEN
    return [Launch("norm of the gradient", "squares_kernel|optim_begin*|begin_kernel", LAYERS, F32 * n, 2 * n),
            Launch("AdamW", "update_kernel|optim_step*|adamw*", LAYERS, n * (7 * F32 + Q4_K), 15 * n)]


def qttt_step(first=CONTEXT - SPAN):
    """One span at the end of the context, the dearest place; full W_Q adapters of every layer."""
    return qttt_forward(SPAN, first) + qttt_head(SPAN) + qttt_backward(SPAN, first) + qttt_optimiser()


def decode_step(sessions, page_bytes=BF16):
    """One token of each session, each with CONTEXT tokens of its own."""
    x, n, keys = sessions, LAYERS, sessions * CONTEXT
    # The parts of the splits: sums of a head, its maximum and its sum of exponentials.
    parts = F32 * keys / SPLIT * HEADS * (HEAD_DIM + 2)
    scales = 2 * KV_HEADS * F32 if page_bytes == 1 else 0
    return [embed(x), norm(x, 2 * n + 1), few_rows(x, NQ + 2 * NK, HIDDEN, Q4_K, "q, k, v", n), qk_rope(x, n),
            Launch("attention, runs of keys", "attn_decode*|attention_decode*", n,
                   keys * (2 * NK * page_bytes + scales) + F32 * x * NQ + parts, 4 * NQ * keys, True),
            Launch("attention, runs joined", "attn_join*|attention_combine*", n, parts + F32 * x * NQ, 2 * parts / F32),
            few_rows(x, HIDDEN, NQ, Q4_K, "o", n, True), few_rows(x, 2 * FFN, HIDDEN, Q4_K, "gate, up", n), gated(x, n),
            few_rows(x, HIDDEN, FFN, Q4_K, "down", n, True), Launch("rows picked", "gather_kernel", 1, F32 * 2 * x * HIDDEN, 0),
            few_rows(x, VOCAB, HIDDEN, Q6_K, "head", 1), Launch("sampling", "sample*", 1, 7 * F32 * x * VOCAB, 40 * x * VOCAB)]


def page_memory(sessions, page_bytes=BF16):
    scales = 2 * KV_HEADS * F32 if page_bytes == 1 else 0
    return sessions * CONTEXT * LAYERS * (2 * NK * page_bytes + scales)


def weight_memory():
    layer = HIDDEN * (NQ + 2 * NK) + NQ * HIDDEN + 3 * HIDDEN * FFN
    return LAYERS * layer * Q4_K + VOCAB * HIDDEN * Q6_K


# ---- the same sums by another way ----

def cost_forward(x, first, stored, adapter, logits):
    """Operations of a step's products by the formula of core/cost.c, for rows of one sequence."""
    keys = x * first + x * (x + 1) / 2
    row = 2 * HIDDEN * (NQ * (2 + adapter) + 2 * NK * stored + 3 * FFN)
    return LAYERS * (x * row + 4 * NQ * keys) + logits * 2 * VOCAB * HIDDEN


def cost_backward(x, first):
    keys = x * first + x * (x + 1) / 2
    row, below = 2 * HIDDEN * (3 * FFN + 2 * NQ), 2 * HIDDEN * 2 * NQ
    return 2 * x * 2 * VOCAB * HIDDEN + LAYERS * (x * row + 6 * NQ * keys) + (LAYERS - 1) * x * below


def sums_agree():
    """Whether the launches add up to what the server itself says that these steps cost."""
    first = CONTEXT - SPAN
    pairs = [(prefill_chunk(0), cost_forward(CHUNK, 0, True, False, 0)),
             (qttt_step(), cost_forward(SPAN, first, False, True, SPAN) + cost_backward(SPAN, first)),
             (decode_step(16), 16 * cost_forward(1, CONTEXT - 1, True, False, 1))]
    return all(abs(sum(w.count * (w.flops if w.useful < 0 else w.useful) for w in launches if w.tensor) / cost - 1) < 1e-9 for launches, cost in pairs)


# ---- the page ----

def three(n):
    """Three digits, never with an exponent."""
    return f"{n:.0f}" if n >= 99.95 else f"{n:.3g}"


def count_text(n):
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{three(n / size)} {unit}"
    return f"{three(n)} "


def time_text(seconds):
    if seconds >= 1:
        return f"{three(seconds)} s"
    return f"{three(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{three(seconds * 1e6)} us"


def in_table(patterns, names):
    """The kernels of kernels.table that a launch is made of."""
    return [n for n in names if any(fnmatch.fnmatchcase(n.split("<")[0], p) for p in patterns.split("|"))]


def kernel_text(launch, names):
    if launch.kernels in ("cuBLAS", "cudaMemcpyAsync", "cudaMemcpy2DAsync"):
        return launch.kernels
    found = sorted({n.split("<")[0] for n in in_table(launch.kernels, names)})
    return ", ".join(f"`{n}`" for n in found) or "to come"


def launches_table(launches, names):
    lines = ["| launch | kernel | times | bytes | FLOPs | A100 | H100 | bound by |", "|---|---|---|---|---|---|---|---|"]
    for w in launches:
        bound = sorted({w.bound(p) for p in PARTS})
        cells = [w.op, kernel_text(w, names), f"{w.count:.4g}", count_text(w.bytes) + "B", count_text(w.flops).strip(),
                 *(time_text(w.seconds(p)) for p in PARTS), bound[0] if len(bound) == 1 else "either"]
        lines.append("| " + " | ".join(cells) + " |")
    moved, computed = sum(w.count * w.bytes for w in launches), sum(w.count * w.flops for w in launches)
    lines.append(f"| **all** | | {sum(w.count for w in launches):.4g} | {count_text(moved)}B | {count_text(computed).strip()} | "
                 + " | ".join(f"**{time_text(total(launches, p))}**" for p in PARTS) + " | |")
    return lines


def summary(prefill):
    rows = [("prefill of 32,768 tokens, 16 chunks", prefill), ("one qTTT step, 128 tokens at the end of the context", qttt_step()),
            ("32 qTTT steps", qttt_step() * 32)]
    for sessions in (1, 16, 64):
        plural = "s" * (sessions > 1)
        rows.append((f"one decode step, {sessions} session{plural}", decode_step(sessions)))
        rows.append(("the same with Q8 pages", decode_step(sessions, 1)))
    lines = ["| | bytes | FLOPs | A100 | H100 |", "|---|---|---|---|---|"]
    for name, launches in rows:
        moved, computed = sum(w.count * w.bytes for w in launches), sum(w.count * w.flops for w in launches)
        lines.append(f"| {name} | {count_text(moved)}B | {count_text(computed).strip()} | "
                     + " | ".join(time_text(total(launches, p)) for p in PARTS) + " |")
    return lines


def memory_lines():
    lines = ["| sessions of 32,768 tokens | BF16 pages | Q8 pages |", "|---|---|---|"]
    for sessions in (1, 16, 64):
        cells = []
        for page_bytes in (BF16, 1):
            n = page_memory(sessions, page_bytes)
            fits = n + weight_memory() < 0.95 * PARTS[0].memory
            cells.append(f"{n / 1e9:.1f} GB{'' if fits else ', does not fit'}")
        lines.append(f"| {sessions} | " + " | ".join(cells) + " |")
    return lines


def page():
    names = sorted({key[0].partition(":")[2] for key in kernel_table.read(TABLE)[1]})
    chunks = [prefill_chunk(first) for first in range(0, CONTEXT, CHUNK)]
    prefill = [w for chunk in chunks for w in chunk]
    sections = [("Prefill, the last chunk of 2,048 tokens", chunks[-1]), ("One qTTT step", qttt_step()),
                ("One decode step, 1 session", decode_step(1)), ("One decode step, 16 sessions", decode_step(16)),
                ("One decode step, 64 sessions", decode_step(64))]
    counted = {n for _, launches in sections for w in launches for n in in_table(w.kernels, names)}
    left = sorted({n.split("<")[0] for n in names if n not in counted})
    lines = [INTRODUCTION.format(parts="\n".join(part_line(p) for p in PARTS), weights=weight_memory() / 1e9).strip(), "",
             "## In short", *summary(prefill), "", *memory_lines(), "", READING.strip(), ""]
    for title, launches in sections:
        lines += [f"## {title}", *launches_table(launches, names), ""]
    lines += ["## Not counted", "Kernels of kernels.table that are in none of the tables above: "
              + (", ".join(f"`{n}`" for n in left) if left else "none") + "."]
    return "\n".join(lines) + "\n"


def part_line(p):
    return f"| {p.name} | {p.bytes / 1e9:,.0f} GB/s | {p.tensor / 1e12:,.0f} TFLOP/s | {p.fp32 / 1e12:,.1f} TFLOP/s | {p.memory / 1e9:.0f} GB |"


INTRODUCTION = """
# What the CUDA backend would cost

**Everything on this page is computed, nothing is measured.** No GPU has run this code. The page is a lower bound from arithmetic: for each kind
of launch the bytes that have to cross the memory bus and the operations that have to be done, and the longer of the two times at 80 % of the
device's bandwidth and 80 % of its peak. `tests/custatic/roofline.py --update` writes it; a test compares.

Model: Qwen3-4B, 36 layers, hidden 2,560, 32 query and 8 K/V heads of 128, feed-forward 9,728, vocabulary 151,936, head tied to the
embedding. Weights Q4_K (4.5 bits), embedding Q6_K: {weights:.2f} GB. Activations FP32, pages BF16, contexts of 32,768 tokens.

| device | memory | BF16 products | FP32 | size |
|---|---|---|---|---|
{parts}
"""

READING = """
How to read it:
- Launches follow one another and do not overlap; the time between them is not counted, nor are uploads of tokens and downloads of results.
- Products of many rows go through cuBLAS, 512 rows a call (a step of fewer is filled up, and computes as much), on panels of weights that are dequantised to BF16 for each product (`weights to BF16`), as the CPU does. Kept in
  BF16 instead they would take 8 GB and save these rows. Products of few rows (decode) unpack the blocks on their way into the tensor cores: the weights leave
  memory once, further rows find them in the L2 cache.
- Attention counts tensor peak for scores and values, each page read from memory once for all rows and query heads of a launch; the causal half is not computed.
- qTTT: full W_Q of every layer (377 M parameters, FP32 with AdamW's moments), span at the end of the context. A span at the beginning sees fewer keys.
- A decode step here is without adapters. A published full adapter adds its 0.75 GB to read, for each adapter in the batch; LoRA of rank 8 nothing that shows.
- Where the table says that sessions do not fit, the time still says what reading that many keys takes. Sessions on one document share its pages, so they do
  fit, and each still reads them.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = page()
    if args.update:
        PAGE.write_text(text)
    elif args.check:
        committed = PAGE.read_text() if PAGE.exists() else ""
        sys.stdout.writelines(difflib.unified_diff(committed.splitlines(True), text.splitlines(True), str(PAGE.relative_to(ROOT)), "roofline.py"))
        same = committed == text
        agree = sums_agree()
        if not agree:
            print("the launches do not add up to the formula of core/cost.c")
        print(f"{same + agree} passed, {2 - same - agree} failed")
        sys.exit(0 if same and agree else 1)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
