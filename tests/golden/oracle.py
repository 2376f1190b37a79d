"""qTTT in PyTorch, for test vectors. The model is transformers' own; only three things are put in its way:

- attention: a function of ours is registered as its implementation. It takes the queries the model made and chooses what
  they see: everything so far (prefill), frozen keys and values of the context (a span), or those plus rows of one's own
  (a recall passage, a question). Frozen means detached: no gradient flows through any K or V.
- W_Q: each q_proj computes x (W + D)^T + b, or x W^T + b + scale (x A^T) B^T.
- norms and rotary angles are computed in the model's own precision (float64 here), where transformers forces float32.
"""

import torch
import torch.nn.functional as F
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

torch.set_num_threads(2)


def norm_forward(module, gemma):
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon

    def forward(x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return y * (1.0 + module.weight if gemma else module.weight)
    return forward


def rotary_forward(module, dtype):
    inv_freq, scaling = module.inv_freq.to(dtype), module.attention_scaling

    def forward(x, position_ids):
        angle = position_ids[0].to(dtype)[:, None] * inv_freq[None, :]
        emb = torch.cat((angle, angle), dim=-1)[None]
        return emb.cos() * scaling, emb.sin() * scaling
    return forward


class Oracle:
    def __init__(self, folder=None, model=None, dtype=torch.float64):
        if model is None:
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
        self.model, self.dtype = model, dtype
        rotary = [m for m in model.modules() if "RotaryEmbedding" in type(m).__name__]
        inv_freq = [m.inv_freq.clone().float() for m in rotary]
        model.to(dtype).eval().requires_grad_(False)
        self.gemma = "Gemma" in type(model).__name__
        for m in model.modules():
            if "RMSNorm" in type(m).__name__:
                m.forward = norm_forward(m, self.gemma)
        for m, f in zip(rotary, inv_freq):
            m.inv_freq = f
            m.forward = rotary_forward(m, dtype)
        if self.gemma:
            embed = model.model.embed_tokens
            scale = model.config.hidden_size ** 0.5
            embed.forward = lambda ids: F.embedding(ids, embed.weight) * scale
        self.attention = [layer.self_attn for layer in model.model.layers]
        self.layers = len(self.attention)
        for i, a in enumerate(self.attention):
            a.q_proj.forward = self.q_forward(i, a.q_proj)
        ALL_ATTENTION_FUNCTIONS["qttt_oracle"] = self.attend
        model.config._attn_implementation = "qttt_oracle"
        self.delta = None  # [layer] of tensors like W_Q
        self.lora = None   # ([layer] A, [layer] B, scale)
        self.mode = "prefill"
        self.k = self.v = None  # frozen context: [layer] of [kv_heads, C, head_dim]
        self.own = None         # private K and V of the last recall or question run

    def wq(self, i):
        return self.attention[i].q_proj.weight

    def q_forward(self, i, proj):
        def forward(x):
            if self.delta is not None:
                return F.linear(x, proj.weight + self.delta[i], proj.bias)
            y = F.linear(x, proj.weight, proj.bias)
            if self.lora is not None:
                a, b, scale = self.lora
                y = y + scale * F.linear(F.linear(x, a[i]), b[i])
            return y
        return forward

    def attend(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        i = module.layer_idx
        q, k, v = query[0], key[0].detach(), value[0].detach()  # [heads, rows, head_dim]
        rows = q.shape[1]
        q_pos, k_pos, group = self.positions, self.positions, None
        if self.mode == "prefill":
            self.k[i], self.v[i] = k, v
        else:
            own_k, own_v = k, v
            k, v, k_pos = self.k[i], self.v[i], torch.arange(self.k[i].shape[1])
            if self.mode == "own":
                if self.fixed is not None:
                    own_k, own_v = self.fixed[0][i], self.fixed[1][i]
                self.own[0].append(own_k)
                self.own[1].append(own_v)
                k, v = torch.cat((k, own_k), 1), torch.cat((v, own_v), 1)
                k_pos = torch.cat((k_pos, self.positions))
                group = torch.cat((torch.full((self.k[i].shape[1],), -1), self.groups))
        seen = k_pos[None, :] <= q_pos[:, None]
        window = getattr(module, "sliding_window", None)
        if window is not None:
            seen &= q_pos[:, None] - k_pos[None, :] < window
        if group is not None:
            seen &= (group[None, :] == -1) | (group[None, :] == self.groups[:, None])
        rep = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(rep, 0), v.repeat_interleave(rep, 0)
        scores = (q @ k.transpose(1, 2)) * scaling
        p = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
        self.peak = max(self.peak, 0) + float(p.detach().max(-1).values[:, rows // 2:].mean())
        return (p @ v).transpose(0, 1)[None], None

    def forward(self, ids, positions):
        """Logits [rows, vocabulary]."""
        self.positions = torch.as_tensor(positions)
        self.peak = 0.0
        ids = torch.as_tensor(ids)
        out = self.model.model(input_ids=ids[None], position_ids=self.positions[None], use_cache=False)
        return self.model.lm_head(out.last_hidden_state[0])

    def prefill(self, ids):
        """Runs the context with the base weights and keeps its K and V; returns its logits."""
        self.delta = self.lora = None
        self.mode, self.k, self.v = "prefill", [None] * self.layers, [None] * self.layers
        with torch.no_grad():
            return self.forward(ids, range(len(ids)))

    def span(self, context, start, k):
        """Row losses of a span's k tokens, K and V (the span's own included) read from the frozen context."""
        self.mode = "frozen"
        logits = self.forward(context[start:start + k], range(start, start + k))
        return F.cross_entropy(logits, torch.as_tensor(context[start + 1:start + k + 1]), reduction="none")

    def recall(self, context, starts, n=48, cue=16, fixed=None):
        """Row losses [passages, n - 1] of passages re-read at positions C.., and the mask of those that count."""
        c = len(context)
        ids, targets, positions, groups = [], [], [], []
        for g, s in enumerate(starts):
            ids += list(context[s:s + n - 1])
            targets += list(context[s + 1:s + n])
            positions += range(c, c + n - 1)
            groups += [g] * (n - 1)
        self.mode, self.groups, self.own, self.fixed = "own", torch.tensor(groups), ([], []), fixed
        logits = self.forward(ids, positions)
        losses = F.cross_entropy(logits, torch.tensor(targets), reduction="none").view(len(starts), n - 1)
        mask = torch.zeros_like(losses)
        mask[:, cue - 1:] = 1.0
        return losses, mask

    def question(self, context, ids):
        """Logits of tokens that follow the context, their K and V made under the present delta."""
        c = len(context)
        self.mode, self.groups, self.own, self.fixed = "own", torch.zeros(len(ids), dtype=torch.long), ([], []), None
        with torch.no_grad():
            return self.forward(ids, range(c, c + len(ids)))
