#!/usr/bin/env python3
"""Computes tiny_diagnose.ttv: dump_diagnose.py MODELS_DIR VECTORS_DIR

For four families, with the context, question and delta of VECTORS_DIR/tiny_FAMILY.ttv: what each head of the question's
last row makes of two needles. Scores are PyTorch's, in float64; what is made of them is plain numpy. Needs what
dump_tiny.py needs. Names of the vectors: README.md."""

import sys

import numpy as np
import torch

import ttv
from oracle import Oracle

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
# of 220 + 12 tokens; Gemma's windows end within the first and before the second
NEEDLES = {"near": (196, 210), "far": (40, 55)}
DELTA, EPSILON = 1.0, 0.1


class Watched(Oracle):
    """Keeps the last row's scores, [heads, keys], -inf where it does not look."""

    def attend(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        result = super().attend(module, query, key, value, attention_mask, scaling, **kwargs)
        if self.mode == "own":
            k = torch.cat((self.k[module.layer_idx], key[0]), 1)
            q = query[0][:, -1:]
            z = (q @ k.repeat_interleave(q.shape[0] // k.shape[0], 0).transpose(1, 2))[:, 0] * scaling
            window = getattr(module, "sliding_window", None)
            if window is not None:
                z[:, :z.shape[1] - window] = float("-inf")
            self.scores[module.layer_idx] = z.numpy()
        return result


def head(z, needle):
    seen = np.isfinite(z)
    n, at = int(seen.sum()), np.arange(len(z))
    p = np.exp(z - z[seen].max())
    p /= p.sum()
    inside = seen & (at >= needle[0]) & (at < needle[1])
    out = {"n_keys": n, "best": -1, "near_ties": 0, "needle_mass": p[inside].sum(), "sink_mass": p[0], "margin": np.nan,
           "gap": np.nan, "required": np.log((n - 1) * (1 - EPSILON) / EPSILON)}
    if inside.any():
        best = int(np.where(inside, z, -np.inf).argmax())
        rivals, others = z[seen & ~inside], z[seen & (at != best)]
        assert np.abs(rivals - z[best] + DELTA).min() > 1e-4  # else the count would hang on rounding
        out.update(best=best, near_ties=int((rivals >= z[best] - DELTA).sum()), gap=z[best] - rivals.max(),
                   margin=z[best] - others.max() - np.log(np.exp(others - others.max()).sum()))
        assert abs(1 / (1 + np.exp(-out["margin"])) - p[best]) < 1e-12
    return out


def main():
    models, vectors = sys.argv[1], sys.argv[2]
    out = {"delta": np.float64(DELTA), "epsilon": np.float64(EPSILON)}
    for name, needle in NEEDLES.items():
        out[name] = np.array(needle, np.int32)
    for family in FAMILIES:
        v = ttv.read("%s/tiny_%s.ttv" % (vectors, family))
        ids, question = v["ids"].tolist(), v["question"].tolist()
        o = Watched(models + "/" + family)
        o.prefill(ids)
        for weights in ("base", "adapted"):
            o.delta = None
            if weights == "adapted":
                o.delta = [torch.from_numpy((v["delta.%d" % i].astype(np.uint32) << 16).view(np.float32)).double()
                           for i in range(o.layers)]
            o.scores = [None] * o.layers
            logits = o.question(ids, question)[-1]
            assert np.allclose(logits.numpy(), v["question." + weights], atol=1e-4)
            for name, needle in NEEDLES.items():
                heads = [[head(z, needle) for z in layer] for layer in o.scores]
                for key in heads[0][0]:
                    a = np.array([[h[key] for h in layer] for layer in heads])
                    out["%s.%s.%s.%s" % (family, weights, name, key)] = a.astype(
                        np.int32 if a.dtype.kind == "i" else np.float64)
        print(family, "mass on the near needle", np.round(out[family + ".adapted.near.needle_mass"], 3).tolist())
    ttv.write(vectors + "/tiny_diagnose.ttv", out)


if __name__ == "__main__":
    main()
