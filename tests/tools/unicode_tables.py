#!/usr/bin/env python3
"""Writes core/template_unicode_data.c: what Python's str methods know of each character, asked of this Python itself.

Usage: unicode_tables.py > core/template_unicode_data.c
       unicode_tables.py --check FILE    exit status 1 when FILE is not what this would write (77: other Unicode version)
"""
import sys
import unicodedata

VERSION = "14.0.0"  # of Python 3.11
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def is_case_ignorable(c):
    """Seen in the rule of the final sigma, which looks past such characters."""
    return ("A\u03a3" + c + "A").lower()[1] == "\u03c3" and ("A\u03a3" + c).lower()[1] == "\u03c2"


SETS = [
    ("alpha", str.isalpha),
    ("decimal", str.isdecimal),
    ("digit", str.isdigit),
    ("numeric", str.isnumeric),
    ("printable", str.isprintable),
    ("upper", str.isupper),
    ("lower", str.islower),
    ("title", str.istitle),
    ("case_ignorable", is_case_ignorable),
]


def progressions(values):
    """Sorted numbers as (first, count, step), step 1 or 2."""
    out = []
    i = 0
    while i < len(values):
        step = values[i + 1] - values[i] if i + 1 < len(values) else 1
        if step > 2 or (step == 2 and i + 2 < len(values) and values[i + 2] - values[i + 1] == 1):
            step = 1
        n = 1
        while i + n < len(values) and values[i + n] - values[i + n - 1] == step and n < 0xFFFF:
            n += 1
        out.append((values[i], n, step))
        i += n
    return out


def table(name, kind, rows):
    lines, line = [], "   "
    for row in rows:
        if len(line) + len(row) > 99:
            lines.append(line)
            line = "   "
        line += " " + row
    lines.append(line)
    return f"const {kind} tt_uni_{name}_rows[] = {{\n" + "\n".join(lines) + "\n};\n" \
           f"const size_t tt_uni_n_{name} = sizeof tt_uni_{name}_rows / sizeof tt_uni_{name}_rows[0];\n"


def case_rows(method):
    """Mappings to one code point, grouped by distance; and those to several."""
    simple, special = {}, []
    for c in CODE_POINTS:
        to = [ord(x) for x in method(chr(c))]
        if len(to) > 1:
            special.append("{0x%X, {%s}}," % (c, ", ".join("0x%X" % x for x in to)))
        elif to[0] != c:
            simple.setdefault(to[0] - c, []).append(c)
    rows = sorted((first, n, step, delta) for delta, cs in simple.items() for first, n, step in progressions(cs))
    # Two groups may interleave (upper and lower alternate): the lookup is by first, so no group may span another's start.
    split = []
    for first, n, step, delta in rows:
        starts = sorted(r[0] for r in rows if first < r[0] <= first + (n - 1) * step)
        at, left = first, n
        for s in starts:
            k = (s - at + step - 1) // step
            if 0 < k < left:
                split.append((at, k, step, delta))
                at, left = at + k * step, left - k
        split.append((at, left, step, delta))
    return ["{0x%X, %d, %d, %d}," % r for r in sorted(split)], special


def source():
    out = ["/* template_unicode_data.c - what Python's str methods know of each character (Unicode %s)." % VERSION,
           " * Source: tests/tools/unicode_tables.py wrote this file; change it there. Thread: none. */",
           '#include "core/template_unicode_data.h"', ""]
    for name, method in SETS:
        rows = ["{0x%X, %d, %d}," % p for p in progressions([c for c in CODE_POINTS if method(chr(c))])]
        out.append(table(name, "tt_uni_range", rows))
    for name, method in (("to_upper", str.upper), ("to_lower", lambda c: c.lower()), ("to_title", str.title)):
        simple, special = case_rows(method)
        out.append(table(name, "tt_uni_shift", simple))
        out.append(table(name + "_special", "tt_uni_special", special))
    return "\n".join(out).rstrip("\n") + "\n"


def main():
    if unicodedata.unidata_version != VERSION:
        print(f"skip: this Python knows Unicode {unicodedata.unidata_version}, the tables are of {VERSION}")
        return 77
    text = source()
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        with open(sys.argv[2], encoding="utf-8") as f:
            same = f.read() == text
        print("the tables are up to date" if same else "the tables differ from what unicode_tables.py writes")
        return 0 if same else 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
