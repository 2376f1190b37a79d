"""Compares tokenizers read from a tokenizer.json with Hugging Face's own, for each shape that tokenizer_shape_json.c knows:
small vocabularies are trained here on generated text, saved as a folder, read by tokdump, and compared on other text.
Usage: compare_shapes.py TOKDUMP [--strings N] [--seed N]"""
import argparse
import json
import os
import random
import re
import struct
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import compare_tokenizer
import gguf_vocab

MARK = gguf_vocab.SPACE_MARK
ADDED = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(rng, text, pre, normalizer=None, ignore_merges=False):
    t = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=1500, show_progress=False, special_tokens=ADDED,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ignore_merges:  # only a token that no merge reaches shows the difference
        saved = json.loads(t.to_str())
        merges = saved["model"]["merges"]
        rng.shuffle(merges)
        saved["model"]["merges"] = merges[:len(merges) // 2]
        t = tokenizers.Tokenizer.from_str(json.dumps(saved))
    return t


def marked(text, normalizer, pre, decoder):
    """SentencePiece-like BPE with byte fallback: the trained pieces, and the 256 byte tokens."""
    t = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre or pre_tokenizers.Metaspace(split=True), decoder
    special = ["<unk>"] + ADDED + [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=1600, show_progress=False, special_tokens=special,
                                                    limit_alphabet=120))
    saved = json.loads(t.to_str())
    saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith("<0x")]
    saved["pre_tokenizer"] = json.loads(pre.__getstate__()) if pre else None
    return tokenizers.Tokenizer.from_str(json.dumps(saved))


def unigram(text, scheme):
    t = tokenizers.Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    t.decoder = decoders.Metaspace(prepend_scheme=scheme)
    text = ["".join(c for c in line if ord(c) < 0x500) for line in text]
    t.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=1200, show_progress=False, unk_token="<unk>",
                                                        special_tokens=["<unk>"] + ADDED))
    saved = json.loads(t.to_str())
    for entry in saved["model"]["vocab"]:  # scores are float32 in a tt_vocab, as in GGUF
        entry[1] = struct.unpack("f", struct.pack("f", entry[1]))[0]
    return tokenizers.Tokenizer.from_str(json.dumps(saved))


def spm_decoder(strip):
    return decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
                             + ([decoders.Strip(" ", 1, 0)] if strip else []))


def replace_spaces(prepend):
    return normalizers.Sequence(([normalizers.Prepend(MARK)] if prepend else [])
                                + [normalizers.Replace(" ", MARK)])


def shapes(rng, text):
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                      pre_tokenizers.ByteLevel(add_prefix_space=False)])
    yield "gpt-2", byte_level(rng, text, pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield "gpt-2 split", byte_level(rng, text, split(gguf_vocab.GPT2))
    yield "smollm", byte_level(rng, text, digits)
    yield "llama 3", byte_level(rng, text, split(gguf_vocab.LLAMA3), ignore_merges=True)
    yield "llama 3, merges", byte_level(rng, text, split(gguf_vocab.LLAMA3))
    yield "qwen2", byte_level(rng, text, split(gguf_vocab.QWEN2), normalizers.NFC())
    yield "qwen2 without NFC", byte_level(rng, text, split(gguf_vocab.QWEN2))
    yield "llama 2", marked(text, replace_spaces(True), None, spm_decoder(True))
    yield "gemma", marked(text, replace_spaces(False), pre_tokenizers.Split(" ", "merged_with_previous"),
                          spm_decoder(False))
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            yield f"metaspace {scheme} {cut}", marked(
                text, None, pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), spm_decoder(scheme != "never"))
        yield f"unigram {scheme}", unigram(text, scheme)


def compare(name, t, args, rng, report):
    bos, eos = t.token_to_id("<s>"), t.token_to_id("</s>")
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)])
    t.add_tokens([AddedToken("  ", normalized=False), AddedToken("\n\n", normalized=False),
                  AddedToken("==", normalized=False)])
    with tempfile.TemporaryDirectory() as folder:
        t.save(os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            json.dump({"bos_token": "<s>", "eos_token": {"content": "</s>"}}, f)
        ours = compare_tokenizer.Tokdump(args.tokdump, folder)
        n = t.get_vocab_size()
        before = report.failures
        for _ in range(args.strings):
            s = compare_tokenizer.make_string(rng)
            if t.normalizer and "NFC" in repr(t.normalizer) and \
                    t.normalizer.normalize_str(s) != unicodedata.normalize("NFC", s):
                continue  # combining marks newer than the tables of Hugging Face's normalizer (Unicode 9)
            report.check(name, ours.encode(s, True), t.encode(s, add_special_tokens=False).ids, s)
            report.check(name + " with ends", ours.encode(s, True, b"a"), t.encode(s).ids, s)
            t.encode_special_tokens = True
            want = t.encode(s, add_special_tokens=False).ids
            t.encode_special_tokens = False
            # HF's unigram finds special tokens in user text when they are in its vocabulary too; ours must not.
            if "<unk>" not in s and not {t.token_to_id(a) for a in ADDED}.intersection(want):
                report.check(name + " user text", ours.encode(s, False), want, s)
            ids = [rng.randrange(n) for _ in range(rng.randrange(16))]
            if ids[:1] == [t.token_to_id("  ")]:
                continue  # whether a text that begins with this loses a space differs between decoders
            report.check(name + " decode", ours.decode(ids).decode(), t.decode(ids), ids)
        ours.close()
        print(f"{name}: {n} tokens, {report.failures - before} differ", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokdump")
    parser.add_argument("--strings", type=int, default=600)
    parser.add_argument("--seed", type=int, default=20250102)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    # No piece may be spelt like a special token, which ours never makes out of other pieces; and jansson refuses a NUL
    # in an object key.
    text = [re.sub("[<\0]", "", compare_tokenizer.make_string(rng)) for _ in range(1500)]
    report = compare_tokenizer.Report()
    print(f"seed {args.seed}")
    for name, t in shapes(rng, text):
        compare(name, t, args, rng, report)
    print(f"{report.n} comparisons, {report.failures} differ")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
