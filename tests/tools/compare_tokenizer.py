"""Compares the tokenizer with Hugging Face's on generated strings and on random sequences of ids.
Usage: compare_tokenizer.py TOKDUMP MODEL.gguf [--strings 10000] [--seed N]; exit 77 when the model is not there."""
import argparse
import os
import random
import subprocess
import sys
import tempfile
import time

import gguf_vocab

FRAGMENTS = [
    "Hello", " world", "don't", "I'LL", "we've", "'S", "\u017f", "'\u017f", "'\u212a", "it's", "12", "345", "6789012", "3.14", "1,000", "\u00b2\u00bd", "\u0663\u0664",
    "\u2160\u2167", " ", "  ", "   ", " " * 7, " " * 40, "\t", "\t\t", "\n", "\n\n", "\n" * 5, "\n" * 40, "\r", "\r\n", "\r\n\r\n",
    " \n", "\n ", "\t \n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff", "\u2028", "\u0085", "\u180e", "\x00", "\x01", "\x04", "\x1d", "\x7f",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "1\ufe0f\u20e3",
    "e\u0301", "a\u0308\u0323", "\u0928\u093f", "\u0e01\u0e33", "\uac00", "\u1100\u1161\u11a8", "\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac", "\u00e9t\u00e9", "stra\u00dfe", "\u0130stanbul", "\ufb01ne",
    "int main(void)\n{\n    return 0;\n}\n", "def f(x):\n\treturn x**2\n", "<div class=\"a\">", "</b>", "<table>", "=====", "-----", "....", "!!!", "?!", "#include <stdio.h>",
    "https://example.org/a?b=c&d=%20", "user@example.org", "C:\\dir\\file.txt", "{\"k\": [1, 2.5e-3]}", "x_1 += y->z[i++];", "\u2581", "\u2581\u2581", "\u2581a",
    "\u0120", "\u010a", "<0x41>", "<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>user\n", "<|endoftext|>", "<unused7>", "[multimodal]", "<pad>", "<unk>",
    "<|im_start", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abab" * 12, "\u6f22" * 9, "supercalifragilistic", "\u0301", "\u0300\u0316",
]


def code_point(rng):
    """Any plane: mostly the two populated ones, also the unassigned and private ones."""
    plane = rng.choice([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 14, 15, 16, rng.randrange(17)])
    while True:
        c = plane << 16 | rng.randrange(0x10000)
        if not 0xd800 <= c < 0xe000:
            return chr(c)


def block_text(rng):
    """Neighbours out of one block, as words in a script are."""
    while True:
        base = rng.choice([rng.randrange(0x20, 0x3000), rng.randrange(0x3000, 0xd700), rng.randrange(0x10000, 0x1fc00),
                           rng.randrange(0x20000, 0x32400)])
        if not 0xd7c0 <= base < 0xe000:
            break
    return "".join(chr(base + rng.randrange(24)) for _ in range(rng.randrange(1, 12)))


def make_string(rng):
    kind = rng.randrange(10)
    if kind == 0:
        return "".join(code_point(rng) for _ in range(rng.randrange(0, 20)))
    if kind == 1:
        return "".join(rng.choice("ab 1'\n\r\t.sS<|>") for _ in range(rng.randrange(0, 60)))
    if kind == 2:
        return " ".join(block_text(rng) for _ in range(rng.randrange(1, 5)))
    parts = []
    for _ in range(rng.randrange(1, 14)):
        pick = rng.randrange(8)
        if pick < 6:
            parts.append(rng.choice(FRAGMENTS))
        elif pick == 6:
            parts.append(code_point(rng))
        else:
            parts.append(block_text(rng))
        if rng.randrange(3) == 0:
            parts.append(" ")
    return "".join(parts)


def long_strings(rng, strings, count):
    """Texts long enough for what the tokenizer keeps of one only: words that come again, places where it is cut."""
    words = [rng.choice("abcdefgh") * rng.randrange(1, 4) + rng.choice(["", "ing", ".", ",", "'s", "1", "\u00e9"]) for _ in range(40)]
    for i in range(count):
        many = 60000 if i == 0 else rng.randrange(300, 1200)  # the first is cut and takes several threads
        parts = [rng.choice(strings) if rng.randrange(4) == 0 else rng.choice(words) for _ in range(many)]
        yield rng.choice([" ", "", "\n", " \n"]).join(parts)


class Tokdump:
    def __init__(self, program, vocab):
        self.p = subprocess.Popen([program, vocab], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, text, special, command=None):
        data = text.encode("utf-8") if isinstance(text, str) else text
        self.p.stdin.write(b"%s %d\n" % (command or (b"p" if special else b"e"), len(data)) + data)
        self.p.stdin.flush()
        return [int(x) for x in self.p.stdout.readline().split()]

    def decode(self, ids, command=b"d"):
        self.p.stdin.write(command + b" %d " % len(ids) + b" ".join(b"%d" % i for i in ids) + b"\n")
        self.p.stdin.flush()
        n = int(self.p.stdout.readline())
        return self.p.stdout.read(n + 1)[:-1]

    def close(self):
        self.p.stdin.write(b"q\n")
        self.p.stdin.close()
        if self.p.wait() != 0:
            sys.exit("tokdump failed")


class Report:
    def __init__(self):
        self.n, self.failures = 0, 0

    def check(self, what, got, want, context):
        self.n += 1
        if got != want:
            self.failures += 1
            if self.failures <= 10:
                print(f"FAIL {what}: {context!r}\n  got  {got!r}\n  want {want!r}")


def compare_strings(vocab, ours, strings, report):
    """Three settings: special tokens parsed and unk allowed; special tokens parsed, unk dropped from user text."""
    trusted = gguf_vocab.huggingface(vocab, unk=True)
    user = gguf_vocab.huggingface(vocab, unk=False)
    user.encode_special_tokens = True
    special = {i for i, kind in enumerate(vocab.types) if kind in (gguf_vocab.CONTROL, gguf_vocab.UNKNOWN)}
    for s in strings:
        report.check("parse_special", ours.encode(s, True), trusted.encode(s, add_special_tokens=False).ids, s)
        ids = ours.encode(s, False)
        report.check("user text", ids, user.encode(s, add_special_tokens=False).ids, s)
        report.check("special token out of user text", special.intersection(ids), set(), s)
    return trusted


def compare_ids(vocab, hf, ours, rng, count, report):
    n = len(vocab.tokens)
    bytes_ids = [i for i, kind in enumerate(vocab.types) if kind == gguf_vocab.BYTE]
    for _ in range(count):
        ids = [rng.randrange(n) for _ in range(rng.randrange(0, 24))]
        if bytes_ids and rng.randrange(3) == 0:
            ids = [rng.choice(bytes_ids) if rng.randrange(2) else i for i in ids]
        report.check("decode", ours.decode(ids).decode("utf-8"), hf.decode(ids, skip_special_tokens=True), ids)
        report.check("decode special", ours.decode(ids, b"D").decode("utf-8"),
                     hf.decode(ids, skip_special_tokens=False), ids)
        ours.decode(ids, b"t").decode("utf-8")  # incremental: always UTF-8


def compare_incremental(ours, strings, report):
    """Text that was UTF-8 comes back byte for byte through the incremental decoder, where every byte has a token."""
    for s in strings:
        ids = ours.encode(s, False)
        report.check("incremental decoding", ours.decode(ids, b"t"), ours.decode(ids), s)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokdump")
    parser.add_argument("model")
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=20250101)
    args = parser.parse_args()
    if not os.path.exists(args.model):
        print(f"skipped: {args.model} is not there (make fetches it)")
        return 77
    start = time.time()
    rng = random.Random(args.seed)
    vocab = gguf_vocab.Vocab(args.model)
    strings = [make_string(rng) for _ in range(args.strings)] + FRAGMENTS
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "vocab")
        vocab.write(path)
        ours = Tokdump(args.tokdump, path)
        hf = compare_strings(vocab, ours, strings, report)
        compare_strings(vocab, ours, long_strings(rng, strings, args.strings // 100), report)
        compare_ids(vocab, hf, ours, rng, args.strings // 2, report)
        compare_incremental(ours, strings[:1000], report)
        ours.close()
    print(f"seed {args.seed}: {len(strings)} strings, {report.n} comparisons, {report.failures} differ, "
          f"{time.time() - start:.1f} s")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
