#!/usr/bin/env python3
"""Checks of the tree itself: layers, sizes, names, white space, headers that stand alone, commit subjects.

Standard library only. Each check is one test; the last line is `N passed, N failed, N skipped`.
docs/contributing.md says why each rule exists.
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = (".c", ".h", ".cc", ".cu", ".cuh")
TEXT = CODE + (".py", ".sh", ".js", ".lua", ".cfg", ".md", ".yaml", ".yml", ".build", ".txt", ".service", ".conf", ".json", ".supp")
MAX_LINES, WARN_LINES, WARN_FUNCTION = 1000, 500, 60

# (what is included, where it may be, why not elsewhere). Paths are prefixes or, with a star, patterns.
INCLUDE_RULES = [
    (r"<uv\.h>", ["server/", "tests/unit/"], "libuv belongs to server/"),
    (r"<microhttpd\.h>", ["server/", "tests/"], "libmicrohttpd belongs to server/"),
    (r"<cyaml/", ["server/"], "libcyaml belongs to server/"),
    (r"<nettle/", ["server/"], "Nettle belongs to server/"),
    (r"<sqlite3\.h>", ["server/state_*.c", "tests/unit/"], "SQLite belongs to server/state_*.c"),
    (r"<jansson\.h>", ["server/", "core/*_json.[ch]", "tests/"], "jansson belongs to server/ and core/*_json.c"),
    (r"<(oneapi/dnnl/)?dnnl", ["kernels/cpu/gemm_onednn.c"], "oneDNN belongs to kernels/cpu/gemm_onednn.c"),
    (r"<(cuda|cublas|cudnn|nccl)", ["kernels/cuda/", "tests/cuemu/", "tests/cuptx/", "tests/custatic/occupancy.c"], "CUDA belongs to kernels/cuda/"),
    (r"<pcre2\.h>", ["core/", "tests/unit/"], "PCRE2 belongs to core/"),
    (r"<utf8proc\.h>", ["core/"], "utf8proc belongs to core/"),
]
# Library code reports through tt_err; a library that prints or exits takes the choice from its caller.
SPEAKS = re.compile(r"\b(v?f?printf|puts|fputs|putchar|perror|syslog|v?dprintf|_?exit|abort|quick_exit)\s*\(")
# Spelt with classes, so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(/wor[k]/|/roo[t]/|/hom[e]/[a-z]|/tm[p]/bash_job[s]|/Users[/])")
LEFT_OVER = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b")


def files():
    """Tracked and not yet added files, relative to the root; without git, everything outside build folders."""
    try:
        out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                             capture_output=True).stdout.decode()
        names = [n for n in out.split("\0") if n]
    except (OSError, subprocess.CalledProcessError):
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
        names = [n for n in names if not n.startswith(("build", "models/", ".git/"))]
    return sorted(n for n in set(names) if (ROOT / n).is_file())


FILES = files()
TEXTS = {}


def is_text(name):
    return (name.endswith(TEXT) or os.path.basename(name) in ("Makefile", "LICENSE", "run", "Dockerfile")) \
        and not name.startswith("tests/fuzz/corpus/")


def text(name):
    if name not in TEXTS:
        TEXTS[name] = (ROOT / name).read_bytes().decode("utf-8", "replace")
    return TEXTS[name]


def code_only(source):
    """C source with comments and literals blanked, line breaks kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), source)


def without_comments(source):
    return re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), source, flags=re.S)


def lines_matching(name, source, pattern):
    return [f"{name}:{i}: {line.strip()[:100]}" for i, line in enumerate(source.split("\n"), 1) if pattern.search(line)]


def allowed(name, places):
    path = pathlib.PurePath(name)
    return any(path.match(p) if "*" in p else name.startswith(p) for p in places)


def check_layers():
    bad = []
    for name in FILES:
        if not name.endswith(CODE):
            continue
        source = without_comments(text(name))
        for include, places, why in INCLUDE_RULES:
            if not allowed(name, places):
                bad += [f"{b}   ({why})" for b in lines_matching(name, source, re.compile(r"#\s*include\s*" + include))]
        up = {"kernels/": r'"(core|server)/', "core/": r'"server/', "server/": r'"kernels/(?!err\.h")'}
        for layer, pattern in up.items():
            if name.startswith(layer):
                bad += lines_matching(name, source, re.compile(r"#\s*include\s*" + pattern))
        if name.startswith("tests/"):
            bad += lines_matching(name, source, re.compile(r'#\s*include\s*"[^"]*\.c"'))
    return bad


def check_silence():
    bad = []
    for name in FILES:
        if name.endswith(CODE) and name.startswith(("core/", "kernels/")):
            bad += lines_matching(name, code_only(text(name)), SPEAKS)
    return bad


def check_sizes():
    bad, long_files, long_functions = [], [], []
    for name in FILES:
        if not name.endswith(CODE + (".py", ".sh")):
            continue
        lines = text(name).split("\n")
        if len(lines) > MAX_LINES:
            bad.append(f"{name}: {len(lines)} lines, at most {MAX_LINES}")
        elif len(lines) > WARN_LINES:
            long_files.append(f"{name} ({len(lines)})")
        start = None
        for i, line in enumerate(lines if name.endswith(CODE) else []):
            if line == "{":
                start = i
            elif line == "}" and start is not None:
                if i - start - 1 > WARN_FUNCTION:
                    long_functions.append(f"{name}:{start + 1} ({i - start - 1})")
                start = None
    if long_files:
        print(f"  note: over {WARN_LINES} lines: " + ", ".join(long_files))
    if long_functions:
        print(f"  note: functions over {WARN_FUNCTION} lines: " + ", ".join(long_functions))
    return bad


def check_unique_names():
    seen, bad = {}, []
    for name in FILES:
        if name.endswith(CODE):
            base = os.path.basename(name)
            if base in seen:
                bad.append(f"{name} and {seen[base]}")
            seen[base] = name
    return bad


def check_white_space():
    bad = []
    for name in filter(is_text, FILES):
        source = text(name)
        if source and not source.endswith("\n"):
            bad.append(f"{name}: no newline at the end")
        if source.endswith("\n\n"):
            bad.append(f"{name}: blank line at the end")
        bad += [f"{b}   (trailing blank or CR)" for b in lines_matching(name, source, re.compile(r"[ \t\r]$"))]
        if os.path.basename(name) != "Makefile":
            bad += [f"{b}   (tab)" for b in lines_matching(name, source, re.compile(r"\t"))]
    return bad


def check_unicode():
    """Characters that a reader cannot see or that reorder what he sees; and bytes that are not UTF-8."""
    bad = []
    for name in filter(is_text, FILES):
        for i, line in enumerate(text(name).split("\n"), 1):
            for c in line:
                if ord(c) > 126 and (unicodedata.category(c) in ("Cf", "Co", "Cn", "Cc", "Zl", "Zp") or c == "\ufffd"
                                     or (unicodedata.category(c) == "Zs")):
                    bad.append(f"{name}:{i}: U+{ord(c):04X}")
    return bad


def check_left_overs():
    bad = []
    for name in filter(is_text, FILES):
        bad += lines_matching(name, text(name), MACHINE_PATHS)
        if name.endswith(CODE + (".py", ".sh", ".build")):
            bad += lines_matching(name, text(name), LEFT_OVER)
    return bad


def check_registered():
    """A source or test that no meson.build names is never compiled, and nobody notices."""
    bad = []
    for name in FILES:
        if not name.endswith((".c", ".cc", ".cu")) or not name.startswith(("core/", "kernels/", "server/", "tests/")):
            continue
        folder, base = os.path.split("tests/cuemu/" + os.path.basename(name) if name.startswith("kernels/cuda/") else name)
        builds = ""
        while folder:
            builds += text(f"{folder}/meson.build") if f"{folder}/meson.build" in FILES else ""
            folder = os.path.dirname(folder)
        stem = base.rpartition(".")[0]
        # Lists may hold a name without what all of them share: 'sched' for test_sched.c, 'avx2' for init_avx2.c.
        short = re.sub(r"^(test|fuzz|init|checkops)_", "", stem)
        if not re.search(rf"'(?:[\w/]*/)?(?:{re.escape(base)}|{re.escape(stem)}|{re.escape(short)})'", builds):
            bad.append(f"{name}: not in a meson.build")
    return bad


def check_unit_files():
    """Every module has its unit file, or a row in docs/testing.md that says where it is tested."""
    headers = [n for n in FILES if n.endswith(".h") and re.match(r"(core|server|kernels)/[^/]+$", n)]
    rows = re.findall(r"^\| (`[^|]*`) \|", text("docs/testing.md"), re.MULTILINE)
    named = [pattern for row in rows for pattern in re.findall(r"`((?:core|server|kernels)/[^`]*\.h)`", row)]
    bad = [f"{n}: neither tests/unit/test_{pathlib.Path(n).stem}.c nor a row in docs/testing.md" for n in headers
           if f"tests/unit/test_{pathlib.Path(n).stem}.c" not in FILES and not any(fnmatch(n, p) for p in named)]
    return bad + [f"docs/testing.md: there is no {p}" for p in named if not any(fnmatch(n, p) for n in headers)]


def check_headers():
    """Every header of ours compiles alone."""
    cc = os.environ.get("CC", "cc")
    packages = ["libuv", "libmicrohttpd", "jansson", "libcyaml", "libpcre2-8", "libutf8proc", "libxxhash"]
    flags = subprocess.run(["pkg-config", "--cflags", *packages], capture_output=True, text=True).stdout.split()
    headers = [n for n in FILES if n.endswith(".h") and n.startswith(("core/", "kernels/", "server/"))
               and not n.startswith("kernels/cuda/")]

    def one(name):
        # Headers of kernels for one instruction set are only ever included with its flags.
        isa = ["-mavx2", "-mfma", "-mf16c"] if name.startswith("kernels/cpu/") else []
        command = [*shlex.split(cc), *isa, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
                   "-Wno-unused-function", "-I.", *flags, "-fsyntax-only", "-x", "c", "-"]
        r = subprocess.run(command, cwd=ROOT, input=f'#include "{name}"\n', capture_output=True, text=True)
        return None if r.returncode == 0 else f"{name}: {r.stderr.strip().splitlines()[0] if r.stderr else 'failed'}"

    with ThreadPoolExecutor(2) as pool:
        return [b for b in pool.map(one, headers) if b]


def check_opening_comment():
    return [f"{n}: opens without a comment that says its role" for n in FILES
            if n.endswith(CODE) and not text(n).startswith("/*")]


def check_scripts():
    bad = []
    for name in FILES:
        if name.endswith(".sh") or name == ".ci/run":
            shell = "bash" if text(name).startswith("#!/usr/bin/env bash") else "sh"
            r = subprocess.run([shell, "-n", name], cwd=ROOT, capture_output=True, text=True)
            bad += [f"{name}: {r.stderr.strip()}"] if r.returncode else []
            bad += [] if os.access(ROOT / name, os.X_OK) else [f"{name}: not executable"]
        elif name.endswith(".py"):
            try:
                compile(text(name), name, "exec")
            except SyntaxError as e:
                bad.append(f"{name}: {e}")
    return bad


def check_commits():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return "no git history here"
    log = subprocess.run(["git", "log", "--no-merges", "--format=%h %s"], cwd=ROOT, capture_output=True, text=True)
    if log.returncode:
        return "git log failed: " + log.stderr.strip()
    bad = []
    for line in log.stdout.splitlines():
        _, _, subject = line.partition(" ")
        if len(subject) > 72:
            bad.append(f"{line}   ({len(subject)} columns, at most 72)")
        if subject.endswith("."):
            bad.append(f"{line}   (full stop)")
        if not re.match(r"(README|Makefile|[a-z0-9_./, -]+): \S", subject):
            bad.append(f"{line}   (not 'module: what')")
    return bad


def check_settings():
    """Every setting has its row in docs/operations.md, with flag and default, and no row is left over."""
    source = re.sub(r'"\s*\n\s*"', "", text("server/settings_table.c"))
    table = {key: (flag, default) for key, flag, default in re.findall(
        r'\{"([\w.]+)",\s*"([\w-]+)",\s*TT_SET_\w+,\s*AT\(\w+\),[^"]*?,\s*"([^"]*)",', source)}
    rows = {key: (flag, default.strip("`")) for key, flag, default in re.findall(
        r"^\| `([\w.]+)` \| `--([\w-]+)` \| (`[^`]*`|) ?\|", text("docs/operations.md"), re.M)}
    bad = [f"docs/operations.md: no row for {k}" for k in table if k not in rows]
    bad += [f"docs/operations.md: there is no setting {k}" for k in rows if k not in table]
    bad += [f"docs/operations.md: {k}: the row says {rows[k]}, the table {table[k]}" for k in table
            if k in rows and rows[k] != table[k]]
    count = len(re.findall(r"AT\(\w+\)", source)) - 1  # one is the macro's definition
    return bad if len(table) == count else [f"server/settings_table.c: read {len(table)} of {count} rows"] + bad


def check_format():
    """Other versions break lines elsewhere: only the one that Debian 12 has is asked."""
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        return "no clang-format here"
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if " version 14." not in version:
        return f"clang-format 14 is asked for, here is{version.partition('version')[2].rstrip()}"
    names = [n for n in FILES if n.endswith(CODE) and n not in UNFORMATTED]
    out = subprocess.run([tool, "--dry-run", *names], cwd=ROOT, capture_output=True, text=True)
    places = re.findall(r"^(\S+?):(\d+):\d+: warning:", out.stderr, re.M)
    return [f"{name}:{line}: not as clang-format would have it" for name, line in places]


UNFORMATTED = {"core/template_unicode_data.c"}  # tables, many values a line

CHECKS = [check_layers, check_silence, check_sizes, check_unique_names, check_white_space, check_unicode,
          check_left_overs, check_registered, check_unit_files, check_headers, check_opening_comment, check_scripts,
          check_commits, check_settings, check_format]


def main():
    passed = failed = skipped = 0
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        found = check()
        if isinstance(found, str):
            print(f"skip: {name}: {found}")
            skipped += 1
        elif found:
            print(f"FAIL {name}")
            print("".join(f"  {line}\n" for line in found[:40]), end="")
            failed += 1
        else:
            print(f"ok   {name}")
            passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
