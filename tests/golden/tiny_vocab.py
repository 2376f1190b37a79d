"""Vocabularies of the tiny models: 320 tokens, byte-level BPE or SentencePiece-like BPE with byte fallback, as the lists
that a GGUF file carries and as a Hugging Face tokenizer.json."""

from tiny_files import GGUF_BOOL, GGUF_F32, GGUF_I32, GGUF_STRING, GGUF_U32

N_VOCAB = 320

PATTERNS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# " t" stands for the word boundary plus t; both kinds of vocabulary spell the blank their own way.
MERGES = [
    " +t", "h+e", "i+n", "r+e", "o+n", " t+he", "e+r", " +a", "n+d", " +s", "o+r", "e+n", "a+t", "e+s", "i+s", "i+t",
    " +o", " o+f", "e+d", "in+g", " a+nd", "a+l", " +w", " +c", " +p", "o+u", "a+n", " +b", " +f", " +m", " +in",
    "a+r", "o+m", "l+e", " +d", "i+c", "l+l", "ou+r", "i+on", "a+s", " t+o", "e+l", " +re", "en+t", "u+n", "o+w",
    " +h", "v+e", "at+ion", "i+d", " +l", "r+o", "c+e", " +g", "u+t", "g+h", " +e", "o+t", "a+m", "k+e", "u+r", "i+l",
]

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TURNS = ("{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + "
         "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
INST = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}")


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        if b in plain:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


class Vocab:
    """tokens, GGUF types, merges as (left, right), ids of the special tokens."""

    def gguf_pairs(self):
        pairs = [("tokenizer.ggml.model", GGUF_STRING, self.gguf_model)]
        if self.pre:
            pairs.append(("tokenizer.ggml.pre", GGUF_STRING, self.pre))
        pairs.append(("tokenizer.ggml.tokens", GGUF_STRING, self.tokens))
        if self.scores:
            pairs.append(("tokenizer.ggml.scores", GGUF_F32, self.scores))
        pairs.append(("tokenizer.ggml.token_type", GGUF_I32, self.types))
        if not self.scores:
            pairs.append(("tokenizer.ggml.merges", GGUF_STRING, [a + " " + b for a, b in self.merges]))
        for key, token in (("bos", self.bos), ("eos", self.eos), ("unknown", self.unk), ("padding", self.pad)):
            if token >= 0:
                pairs.append(("tokenizer.ggml.%s_token_id" % key, GGUF_U32, token))
        pairs.append(("tokenizer.ggml.add_bos_token", GGUF_BOOL, self.add_bos))
        pairs.append(("tokenizer.ggml.add_eos_token", GGUF_BOOL, False))
        if self.scores:
            pairs.append(("tokenizer.ggml.add_space_prefix", GGUF_BOOL, self.space_prefix))
        pairs.append(("tokenizer.chat_template", GGUF_STRING, self.template))
        return pairs

    def added(self):
        return [{"id": i, "content": self.tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True} for i, t in enumerate(self.types) if t in (2, 3)]

    def post_processor(self):
        if not self.add_bos:
            return None
        bos = self.tokens[self.bos]
        special = {"SpecialToken": {"id": bos, "type_id": 0}}
        return {"type": "TemplateProcessing",
                "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [special, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {bos: {"id": bos, "ids": [self.bos], "tokens": [bos]}}}

    def tokenizer_json(self):
        model = {"type": "BPE", "dropout": None, "unk_token": self.tokens[self.unk] if self.scores else None,
                 "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": bool(self.scores),
                 "byte_fallback": bool(self.scores), "ignore_merges": False,
                 "vocab": {t: i for i, t in enumerate(self.tokens) if self.types[i] not in (2, 3) or self.scores},
                 "merges": [a + " " + b for a, b in self.merges]}
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": self.added(),
                "normalizer": self.normalizer, "pre_tokenizer": self.pre_tokenizer,
                "post_processor": self.post_processor(), "decoder": self.decoder, "model": model}

    def tokenizer_config(self):
        conf = {"add_bos_token": self.add_bos, "add_eos_token": False, "chat_template": self.template,
                "clean_up_tokenization_spaces": False, "eos_token": self.tokens[self.eos],
                "tokenizer_class": "PreTrainedTokenizerFast",
                "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in self.added()}}
        if self.bos >= 0:
            conf["bos_token"] = self.tokens[self.bos]
        return conf


def byte_level(pre):
    v = Vocab()
    v.gguf_model, v.pre, v.scores, v.template, v.add_bos, v.space_prefix = "gpt2", pre, None, CHATML, False, False
    alphabet = byte_alphabet()
    v.tokens = [alphabet[b] for b in range(256)]
    v.merges = []
    for m in MERGES[:N_VOCAB - 256 - 3]:
        a, b = m.replace(" ", alphabet[32]).split("+")
        v.merges.append((a, b))
        v.tokens.append(a + b)
    v.types = [1] * len(v.tokens)
    v.tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    v.types += [3, 3, 3]
    n = len(v.tokens)
    v.bos, v.eos, v.unk, v.pad = n - 2, n - 1, -1, n - 3
    if pre == "llama-bpe":
        v.bos, v.add_bos = n - 3, True
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": pre == "smollm"}
    if pre == "smollm":
        first = {"type": "Digits", "individual_digits": True}
    else:
        first = {"type": "Split", "pattern": {"Regex": PATTERNS[pre]}, "behavior": "Isolated", "invert": False}
    v.pre_tokenizer = {"type": "Sequence", "pretokenizers": [first, split]}
    v.normalizer = {"type": "NFC"} if pre == "qwen2" else None
    v.decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return v


def sentencepiece(gemma):
    v = Vocab()
    v.gguf_model, v.pre, v.add_bos, v.space_prefix = "llama", None, True, not gemma
    head = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    tail = ["<start_of_turn>", "<end_of_turn>"] if gemma else []
    v.bos, v.eos, v.unk, v.pad = (2, 1, 3, 0) if gemma else (1, 2, 0, -1)
    v.template = TURNS if gemma else INST
    v.tokens = head + ["<0x%02X>" % b for b in range(256)]
    v.types = [2 if t == "<unk>" else 3 for t in head] + [6] * 256
    chars = ["\u2581"] + [chr(c) for c in range(ord("a"), ord("z") + 1)]
    v.merges = []
    for m in MERGES[:N_VOCAB - len(v.tokens) - len(chars) - len(tail)]:
        a, b = m.replace(" ", "\u2581").split("+")
        v.merges.append((a, b))
        v.tokens.append(a + b)
        v.types.append(1)
    v.tokens += chars + tail
    v.types += [1] * len(chars) + [3] * len(tail)
    first = len(head) + 256
    v.scores = [0.0] * first + [-float(i) for i in range(len(v.tokens) - first)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    steps = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
             {"type": "Fuse"}]
    if gemma:
        v.normalizer = replace
        v.pre_tokenizer = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                           "invert": False}
    else:
        v.normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}
        v.pre_tokenizer = None
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    v.decoder = {"type": "Sequence", "decoders": steps}
    return v


def make(kind):
    v = {"spm": lambda: sentencepiece(False), "gemma": lambda: sentencepiece(True)}.get(kind, lambda: byte_level(kind))()
    assert len(v.tokens) == N_VOCAB and len(set(v.tokens)) == N_VOCAB
    return v
