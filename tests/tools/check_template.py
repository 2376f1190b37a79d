#!/usr/bin/env python3
"""Chat templates against Python's jinja2: the same text, or a failure in both.

Usage: check_template.py TEMPLATE_LINES TEMPLATES_FOLDER MODELS_FOLDER [--seed N] [--random N] [--verbose]

Renders the templates of the models (GGUF files under MODELS_FOLDER, skipped with a word when they are not there) and
those of TEMPLATES_FOLDER with the conversations of template_cases.py, then template_snippets.py, then N random templates of template_random.py.
jinja2 is set up as transformers does it. TEMPLATE_LINES is template_lines.c. Exit status 77: no model was there.
"""
import argparse
import datetime
import json
import pathlib
import random
import re
import subprocess
import sys
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

import gguf_vocab
import template_cases
import template_random
import template_snippets

NOW = 1718000000
MODELS = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"]
REQUIRED = MODELS[0]  # the other one is fetched for the slow tests only
# What the C side may say where jinja2 goes on: its numbers end at 64 bits, and slices of constants follow the same rule
# as those of variables (jinja2 folds them in another way, to undefined).
ALLOWED = ("an integer beyond 64 bits", "a complex number", "unhashable type: 'slice'", "object is not subscriptable")
ADDRESS = re.compile(r"0x[0-9a-f]{8,}", re.I)  # of an object: nothing that a template could mean


class Generation(jinja2.ext.Extension):
    """{% generation %}: prints its body, in a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("run"), [], [], body).set_lineno(line)

    def run(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(fmt):
    return datetime.datetime.fromtimestamp(NOW).strftime(fmt)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


class Renderer:
    """The C side: one line in, one line out."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, template, context):
        line = json.dumps({"template": template, "context": context, "now": NOW})
        self.process.stdin.write(line.encode("utf-8", "surrogatepass") + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"template_lines ended with {self.process.wait()} on:\n{template!r}\n{context!r}")
        return json.loads(answer)


class Checker:
    def __init__(self, renderer, verbose):
        self.env = environment()
        self.renderer = renderer
        self.verbose = verbose
        self.compiled = {}
        self.counts = {"equal": 0, "both fail": 0, "allowed": 0, "differ": 0}

    def expected(self, template, context):
        """(text, None) or (None, exception)."""
        try:
            # transformers renders with documents=None too.
            if template not in self.compiled:
                self.compiled = {template: self.env.from_string(template)}
            return self.compiled[template].render(dict({"documents": None}, **context)), None
        except Exception as e:  # whatever Python raises is a failure of the template
            return None, e

    def check(self, name, template, context):
        want, error = self.expected(template, context)
        got = self.renderer(template, context)
        verdict = self.judge(want, error, got)
        self.counts[verdict] += 1
        if verdict == "differ" or self.verbose:
            print(f"{verdict}: {name}")
        if verdict == "differ":
            print(f"  template {template if len(template) < 600 else template[:600] + ' ...'}")
            print(f"  jinja2   {want!r:.2000}" if error is None else f"  jinja2   raises {type(error).__name__}: {error}")
            print(f"  here     {got.get('text', got)!r:.2000}", flush=True)
        return verdict

    def judge(self, want, error, got):
        if "text" in got:
            if error is None and ADDRESS.search(want):
                return "allowed"
            return "equal" if error is None and got["text"] == want else "differ"
        if any(a in got["message"] for a in ALLOWED):
            return "allowed"
        if error is None:
            return "differ"
        if got["error"] == "unsupported":  # an unknown tag is a syntax error there
            return "both fail" if isinstance(error, jinja2.TemplateSyntaxError) and got["stage"] == "create" else "differ"
        # The message of raise_exception is for the one who asked: handed on, but cut at the end and without controls.
        raised = type(error) is jinja2.exceptions.TemplateError
        message = re.sub(r"[\x00-\x1f\x7f]", "?", str(error))
        return "both fail" if not raised or message.startswith(got["message"][:200]) else "differ"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("binary")
    p.add_argument("templates", type=pathlib.Path)
    p.add_argument("models", type=pathlib.Path)
    p.add_argument("--seed", type=int, default=20251122)
    p.add_argument("--random", type=int, default=4000)
    p.add_argument("--verbose", action="store_true")
    a = p.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)  # of the Python that jinja2 makes of hostile templates
    c = Checker(Renderer(a.binary), a.verbose)

    sources = {f.name: f.read_text(encoding="utf-8") for f in sorted(a.templates.glob("*.jinja"))}
    if len(sources) < 8:
        sys.exit(f"{a.templates}: {len(sources)} templates")
    sources["ChatML"] = subprocess.run([a.binary, "--chatml"], capture_output=True, check=True).stdout.decode()
    for model in MODELS:
        path = a.models / model
        source = gguf_vocab.GGUF(path).fields.get("tokenizer.chat_template") if path.exists() else None
        if source is None:
            print(f"{model}: {'no template of its own, ChatML is used' if path.exists() else 'not there'}")
        else:
            sources[model] = source
    for name, source in sources.items():
        before = dict(c.counts)
        for case, context in template_cases.contexts():
            c.check(f"{name} {case}", source, context)
        print(f"{name}: " + ", ".join(f"{c.counts[k] - before[k]} {k}" for k in c.counts))

    before = dict(c.counts)
    for source in template_snippets.snippets():
        c.check("snippet", source, template_snippets.CONTEXT)
        c.check("snippet", source + "\n", dict(template_snippets.CONTEXT, x=0))
    print("snippets: " + ", ".join(f"{c.counts[k] - before[k]} {k}" for k in c.counts))

    before = dict(c.counts)
    for name, context in template_random.character_blocks():
        c.check(f"characters from {name}", template_random.CHARACTERS, context)
    print("characters: " + ", ".join(f"{c.counts[k] - before[k]} {k}" for k in c.counts))

    seed = a.seed
    before = dict(c.counts)
    rng = random.Random(seed)
    for i in range(a.random):
        template, context = template_random.template(rng)
        c.check(f"random {i} of seed {seed}", template, context)
        if c.counts["differ"] > 40:
            break
    print(f"random templates, seed {seed}: " + ", ".join(f"{c.counts[k] - before[k]} {k}" for k in c.counts))
    if c.counts["differ"]:
        return 1
    if REQUIRED not in sources:
        print(f"skip: no {a.models / REQUIRED}, its template was not checked; \"make model\" fetches it")
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main())
