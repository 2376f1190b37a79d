#!/usr/bin/env python3
"""The demo: a real document in, qTTT, a streamed answer out, on a server of its own that it starts and stops.

Python's standard library only. Speaks to the server as any client would, over HTTP on a free loopback port.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

# Text that is on the machine, each with a question whose answer stands in it.
DOCUMENTS = [
    ("/usr/share/common-licenses/GPL-2", "Which foundation published this license?"),
    ("/usr/share/common-licenses/GPL-3", "Which foundation published this license?"),
]
MAX_DOCUMENT_TOKENS = 4400


class Screen:
    """Progress on one line that is written over; on a pipe or file, a line every few seconds instead."""

    def __init__(self, out=sys.stdout):
        self.out, self.tty = out, out.isatty()
        self.width = min(100, shutil.get_terminal_size((100, 24)).columns)
        self.open, self.last = False, 0.0

    def line(self, text=""):
        self.close()
        print(text, file=self.out, flush=True)

    def title(self, text):
        self.line(f"\n\033[1m{text}\033[0m" if self.tty else f"\n== {text}")

    def progress(self, text, final=False):
        now = time.monotonic()
        if self.tty:
            self.out.write("\r\033[K" + text[:self.width - 1])
            self.open = True
        elif final or now - self.last > 5:
            self.out.write(text + "\n")
            self.last = now
        self.out.flush()
        if final:
            self.close()
            self.last = 0.0

    def close(self):
        if self.open:
            self.out.write("\n")
            self.open = False

    def write(self, text):
        self.out.write(text)
        self.out.flush()


def bar(done, total, width=24):
    full = int(width * done / total) if total else 0
    return "[" + "#" * full + "." * (width - full) + "]"


class Server:
    """`qttt serve` on a port that the system chooses."""

    def __init__(self, binary, model):
        self.folder = tempfile.TemporaryDirectory(prefix="qttt-demo-")
        self.port_file = pathlib.Path(self.folder.name) / "port"
        self.log = pathlib.Path(self.folder.name) / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary, "serve", "--model", model, "--host", "127.0.0.1", "--port", "0",
                                             "--port-file", str(self.port_file), "--state-dir", "none"], stdout=log, stderr=log)
        self.port = None

    def wait_ready(self, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.port is None:
                with contextlib.suppress(OSError, ValueError):
                    self.port = int(self.port_file.read_text())
            else:
                with contextlib.suppress(OSError):
                    if self.ask("GET", "/readyz")[0] == 200:
                        return
            time.sleep(0.02)
        raise SystemExit(f"demo: the server did not come up:\n{self.log.read_text(errors='replace')[-2000:]}")

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(c):
            c.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
            r = c.getresponse()
            return r.status, json.loads(r.read())

    def stream(self, body):
        """Events of a streamed chat completion as dictionaries."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(c):
            c.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
            r = c.getresponse()
            if r.status != 200:
                raise SystemExit(f"demo: the server answered {r.status}: {r.read().decode(errors='replace')}")
            for line in r:
                if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise SystemExit(f"demo: {event['error']['message']}")
                    yield event

    def stop(self):
        """Asks it to end and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.status = self.stop()
        self.folder.cleanup()


def generated_document():
    """When the machine has no such text: a register in which every entry looks like the next."""
    lines = ["Register of the lighthouse keepers of the northern coast.", ""]
    names = "Adda Bero Cilla Dorn Edda Finn Gisa Hauke Ilse Jorn Karla Lasse".split()
    places = "Amrum Borkum Cuxhaven Dagebuell Esbjerg Fano Greetsiel Husum".split()
    for i in range(130):
        lines.append(f"Entry {i + 1}. Keeper {names[i * 7 % 12]} of {places[i * 5 % 8]} tended the lamp for {i * 37 % 61 + 3} "
                     f"nights and noted {i * 53 % 97 + 2} ships.")
    lines.append("The register was closed in Flensburg by the harbour master.")
    return "\n".join(lines), "In which town was the register closed?"


def find_document():
    for path, question in DOCUMENTS:
        with contextlib.suppress(OSError):
            return path, pathlib.Path(path).read_text(), question
    return "a generated register", *generated_document()


def fit(server, text, max_tokens):
    """The document's beginning that has at most max_tokens tokens, cut at a line."""
    ids = server.ask("POST", "/tokenize", {"prompt": text, "add_special_tokens": False})[1]["tokens"]
    if len(ids) > max_tokens:
        text = server.ask("POST", "/detokenize", {"tokens": ids[:max_tokens]})[1]["prompt"].rpartition("\n")[0]
        ids = ids[:max_tokens]
    return text, len(ids)


def show_progress(screen, p, start):
    done, total = p["done"], p["total"]
    if p["phase"] == "prefill":
        seconds = p.get("seconds") or time.monotonic() - start
        rate = (done - p.get("cached", 0)) / seconds if seconds > 0 else 0
        screen.progress(f"  reading   {bar(done, total)} {done:5d}/{total} tokens  {rate:6.0f} tokens/s", done == total)
    elif p["phase"] == "adapt":
        loss = f"loss {p['loss']:.4f}" if p.get("loss") is not None else ""
        screen.progress(f"  adapting  {bar(done, total)} step {done:3d}/{total}  {loss}", done == total)
    else:
        screen.progress("  waiting in the queue")


def answer(screen, server, document, question, qttt):
    """Streams one answer; returns its text and last chunks' usage and qttt."""
    body = {"messages": [{"role": "system", "content": "Answer from this document.\n\n" + document},
                         {"role": "user", "content": question}],
            "max_tokens": 64, "temperature": 0, "seed": 0, "qttt": qttt,
            "stream_options": {"include_progress": True, "include_usage": True}}
    text, usage, report, start, first, adapted = "", None, None, time.monotonic(), True, False
    for event in server.stream(body):
        usage, report = event.get("usage") or usage, event.get("qttt") or report
        if "progress" in event:
            adapted = adapted or event["progress"]["phase"] == "adapt"
            # The few tokens of the question, which are read after the adaptation, deserve no bar of their own.
            if not adapted or event["progress"]["phase"] == "adapt":
                show_progress(screen, event["progress"], start)
        for choice in event["choices"]:
            piece = choice["delta"].get("content") or ""
            if piece and first:
                screen.close()
                screen.write("  ")
                first = False
            screen.write(piece.replace("\n", "\n  "))
            text += piece
    screen.line()
    return text.strip(), usage, report


def number(value, form=".4f"):
    return "-" if value is None else format(value, form)


def explain(screen, q):
    """What adaptation did, as the server reported it."""
    h, recall = q["hyperparameters"], q["recall"]
    status = {"succeeded": "kept" if q["kept"] else "discarded by the guard: the answer above is the base model's"}.get(
        q["status"], f"{q['status']} ({q['reason']})")
    rows = [
        ("adapter", status),
        ("recall loss", "-" if recall is None else
         f"{number(recall['before'])} -> {number(recall['after'])} nats a token; the mean difference has a standard error of "
         f"{number(recall['standard_error'])} ({recall['segments']} segments)"),
        ("span loss", f"{number(q['span_loss_before'])} -> {number(q['span_loss_after'])} (decides nothing)"),
        ("size of the change", f"{number(q['delta_norm_relative'], '.1e')} of the norm of W_Q, in the layer where it is largest"),
        ("what was done", f"{q['steps_done']} steps of {h['span_tokens']} tokens, {h['objective']}, {h['optimizer']}, learning rate "
         f"{h['learning_rate']:g}, {h['adapter']} matrices of {h['layers'] if h['layers'] != 'all' else 'all'} layers"),
        ("time", f"{q['prefill_seconds']:.1f} s reading, {q['adapt_seconds']:.1f} s adapting"),
        ("the same FLOPs would decode", f"{q['equal_cost_tokens']:.0f} tokens"),
    ]
    for name, text in rows:
        lines = textwrap.wrap(text, screen.width - 32) or [""]
        screen.line(f"  {name:28s}{lines[0]}")
        for more in lines[1:]:
            screen.line(" " * 30 + more)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="build/server/qttt")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--objective", choices=["next_token", "recall"], default="next_token")
    args = parser.parse_args()
    screen, began = Screen(), time.monotonic()

    with Server(args.binary, args.model) as server:
        server.wait_ready()
        model = server.ask("GET", "/v1/models")[1]["data"][0]
        screen.line(f"{model['id']} is ready on 127.0.0.1:{server.port} after {time.monotonic() - began:.1f} s")
        source, text, question = find_document()
        document, n = fit(server, text, min(MAX_DOCUMENT_TOKENS, model["max_model_len"] * 2 // 3))
        screen.line(f"document: {source}, {n} tokens")
        screen.line(f"question: {question}")

        screen.title(f"1. read, adapt the query projections (qTTT, {args.objective}), answer")
        adapted, usage, report = answer(screen, server, document, question,
                                        {"mode": "on", "steps": args.steps, "objective": args.objective})
        screen.title("2. the plain answer, without adaptation")
        plain, plain_usage, _ = answer(screen, server, document, question, False)

        screen.title("3. what adaptation did")
        explain(screen, report)
        screen.line(f"  {'answers':28s}{'the same' if adapted == plain else 'different'}; the plain request found "
                    f"{plain_usage['prompt_tokens_details']['cached_tokens']} of its {plain_usage['prompt_tokens']} tokens cached")
        screen.line("\nA kept adapter is one that the guard did not reject, no promise of a better answer: docs/qttt.md says what")
        screen.line("was measured on small models and what was not.")
    screen.line(f"\nThe server ended with status {server.status}; {time.monotonic() - began:.0f} s in all.")
    if server.status != 0:
        sys.exit(f"demo: exit status {server.status}")
    if not adapted or not plain or not report:
        sys.exit("demo: an answer is missing")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)
