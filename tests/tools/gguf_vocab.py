"""The vocabulary of a GGUF file, written in the plain form that tokdump.c reads and rebuilt as a Hugging Face tokenizer.
Usage: gguf_vocab.py MODEL.gguf VOCAB"""
import mmap
import struct
import sys

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

BPE, SPM = 0, 1
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE_MARK = "\u2581"


class GGUF:
    """The metadata of a GGUF file: a reader of our own, so that the oracle needs neither our C code nor a package."""

    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    STRING, ARRAY = 8, 9

    def __init__(self, path):
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self.data, self.at = data, 0
            magic, version, _, n_fields = self.unpack("4sIQQ")
            if magic != b"GGUF" or version not in (2, 3):
                sys.exit(f"{path}: not a GGUF file")
            self.fields, self.kinds = {}, {}  # of an array: the kind of its elements
            for _ in range(n_fields):
                name = self.string()
                self.kinds[name] = self.unpack("I")[0]
                self.fields[name] = self.value(self.kinds[name], name)
            self.data = None

    def unpack(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def string(self):
        n = self.unpack("Q")[0]
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8")

    def value(self, kind, name):
        if kind == self.STRING:
            return self.string()
        if kind != self.ARRAY:
            return self.unpack(self.SCALARS[kind])[0]
        kind, n = self.unpack("IQ")
        self.kinds[name] = kind
        if kind == self.STRING:
            return [self.string() for _ in range(n)]
        return list(self.unpack(f"{n}{self.SCALARS[kind]}"))


class Vocab:
    def __init__(self, path):
        fields = GGUF(path).fields

        def get(name, default=None):
            return fields.get("tokenizer.ggml." + name, default)

        self.kind = {"gpt2": BPE, "llama": SPM}[get("model")]
        self.pre = get("pre", "")
        self.tokens = get("tokens")
        self.scores = get("scores") or [0.0] * len(self.tokens)
        self.types = get("token_type") or [NORMAL] * len(self.tokens)
        self.merges = get("merges") or []
        self.bos = get("bos_token_id", -1)
        self.eos = get("eos_token_id", -1)
        self.eot = get("eot_token_id", -1)
        self.unk = get("unknown_token_id", -1)
        self.pad = get("padding_token_id", -1)
        self.add_bos = get("add_bos_token", self.kind == SPM)
        self.add_eos = get("add_eos_token", False)
        self.add_space_prefix = get("add_space_prefix", self.kind == SPM)
        self.remove_extra_whitespaces = get("remove_extra_whitespaces", False)

    def write(self, path):
        def text(s):
            data = s.encode("utf-8")
            return struct.pack("<I", len(data)) + data

        flags = self.add_bos | self.add_eos << 1 | self.add_space_prefix << 2 | self.remove_extra_whitespaces << 3
        with open(path, "wb") as f:
            f.write(struct.pack("<I5iI", self.kind, self.bos, self.eos, self.eot, self.unk, self.pad, flags))
            f.write(text(self.pre))
            f.write(struct.pack("<I", len(self.tokens)))
            for token, score, kind in zip(self.tokens, self.scores, self.types):
                f.write(text(token) + struct.pack("<fI", score, kind))
            f.write(struct.pack("<I", len(self.merges)))
            for merge in self.merges:
                f.write(text(merge))


def merges_from_scores(vocab):
    """As transformers' converter makes the merges of a SentencePiece model: every split of a token into two tokens,
    best score first, then the longer left part. Only text tokens are results of merges."""
    ids = {t: i for i, t in enumerate(vocab.tokens)}
    found = []
    for i, token in enumerate(vocab.tokens):
        if vocab.types[i] not in (NORMAL, USER_DEFINED):
            continue
        local = []
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                local.append((left, right, vocab.scores[i]))
        local.sort(key=lambda m: (ids[m[0]], ids[m[1]]))
        found.extend(local)
    found.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(left, right) for left, right, _ in found]


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def pre_tokenizer(pre):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pattern = {"llama-bpe": LLAMA3, "qwen2": QWEN2}[pre]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def huggingface(vocab, unk):
    """The same tokenizer out of Hugging Face's parts. unk: BPE may answer unk for what it cannot spell."""
    ids = {t: i for i, t in enumerate(vocab.tokens)}
    if vocab.kind == BPE:
        merges = [tuple(m.split(" ")) for m in vocab.merges]
        model = models.BPE(vocab=ids, merges=merges, ignore_merges=vocab.pre == "llama-bpe",
                           unk_token=vocab.tokens[vocab.unk] if unk and vocab.unk >= 0 else None)
        t = tokenizers.Tokenizer(model)
        t.pre_tokenizer = pre_tokenizer(vocab.pre)
        t.decoder = decoders.ByteLevel()
    else:
        model = models.BPE(vocab=ids, merges=merges_from_scores(vocab), byte_fallback=True, fuse_unk=True,
                           unk_token=vocab.tokens[vocab.unk])
        t = tokenizers.Tokenizer(model)
        steps = [normalizers.Prepend(SPACE_MARK)] if vocab.add_space_prefix else []
        t.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", SPACE_MARK)])
        strip = [decoders.Strip(" ", 1, 0)] if vocab.add_space_prefix else []
        t.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
                                      + strip)
    special = [AddedToken(s, special=True, normalized=False)
               for s, kind in zip(vocab.tokens, vocab.types) if kind in (CONTROL, UNKNOWN)]
    user = [AddedToken(s, special=False, normalized=False)
            for s, kind in zip(vocab.tokens, vocab.types) if kind == USER_DEFINED]
    t.add_special_tokens(special)
    t.add_tokens(user)
    return t


if __name__ == "__main__":
    Vocab(sys.argv[1]).write(sys.argv[2])
