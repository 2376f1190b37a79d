#!/usr/bin/env python3
"""growth.py FILE.json... [--svg FOLDER] [--strict] - what `qttt bench --part growth` measured, against what theory says of it:
attention is linear in the depth and in the streams, an adapter costs what one costs, nothing else grows. Files of the same
model are parts of one run, of a point that is in several the fastest counts. Draws one SVG a model and kind; --strict: exit 1 when anything is not as it should be.
Standard library and load_svg.py."""
import argparse
import json
import pathlib
import re
import sys
from xml.sax.saxutils import escape

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "load"))
from load_svg import line, nice_steps, spread, text  # noqa: E402

TOLERANCE = 0.25  # of a point against its line, of what should stay the same
CONTEXT = {"prefill": "last 512 tokens of a prefill", "decode": "one decoded token", "step": "one qTTT step of 128 tokens"}
OTHERS = {"streams": "a decode step of x streams", "LoRA adapters": "8 streams, x with a LoRA adapter",
          "full adapters": "8 streams, x with a full adapter"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 330, 300, 62, 58, 52, 30
COLORS = {"all": "#222222", "attention": "#1f6feb", "adapters": "#8a2be2", "the rest": "#bf5700", "limit": "#4a7c2c"}


def curves(points):
    """Of one series: x and milliseconds of each part."""
    out = {"x": [p["x"] for p in points], "all": [1e3 * p["seconds"] for p in points],
           "attention": [1e3 * p["attention_seconds"] for p in points],
           "adapters": [1e3 * p["adapters_seconds"] for p in points], "limit": [1e3 * p["limit_seconds"] for p in points]}
    out["the rest"] = [a - b - c for a, b, c in zip(out["all"], out["attention"], out["adapters"])]
    return out


def fit(xs, ys):
    """(a, b) of y = a + b x with the least relative deviations."""
    w = [1 / max(y, 1e-12) ** 2 for y in ys]
    sw, swx, swy = sum(w), sum(a * x for a, x in zip(w, xs)), sum(a * y for a, y in zip(w, ys))
    swxx, swxy = sum(a * x * x for a, x in zip(w, xs)), sum(a * x * y for a, x, y in zip(w, xs, ys))
    b = (sw * swxy - swx * swy) / (sw * swxx - swx * swx)
    return (swy - b * swx) / sw, b


def linear(xs, ys):
    """The largest relative deviation from a rising line."""
    a, b = fit(xs, ys)
    return max(abs(y - a - b * x) / max(y, 1e-12) for x, y in zip(xs, ys)) if b >= 0 else float("inf")


def constant(ys):
    """How much more the last takes than the first."""
    return max(ys[-1] / max(ys[0], 1e-12) - 1, 0)


def judge(series, c):
    """[(what, measured, allowed)] of a series; fewer than three points say nothing."""
    if len(c["x"]) < 3:
        return []
    xs, out = c["x"], []
    if series in CONTEXT:
        out.append(("attention is linear in the depth: off the line by at most", linear(xs, c["attention"]), TOLERANCE))
        other = [a - b for a, b in zip(c["all"], c["attention"])]
        out.append(("nothing else grows with the depth: the last above the first by", constant(other), TOLERANCE))
    elif series == "streams":
        out.append(("attention is linear in the streams: off the line by at most", linear(xs, c["attention"]), TOLERANCE))
        share = [y / x for x, y in zip(xs, c["the rest"])]
        worst = max(b / a - 1 for a, b in zip(share, share[1:]))
        out.append(("a stream more makes none dearer: the rest, each of them, above fewer by at most", max(worst, 0), TOLERANCE))
    else:
        some = [(x, y) for x, y in zip(xs, c["adapters"]) if x > 0]
        if len(some) >= 3:
            out.append(("adapters cost the same each: off the line by at most", linear(*zip(*some)), TOLERANCE))
        other = [a - b for a, b in zip(c["all"], c["adapters"])]
        out.append(("streams without one do not pay: the last above the first by", constant(other), TOLERANCE))
    return out


def panel(out, left, title, c):
    """One pair of axes; `out` receives the elements."""
    right, bottom = left + WIDTH - LEFT - GAP, HEIGHT - BOTTOM
    names = [n for n in COLORS if n != "adapters" or max(c["adapters"]) > 0]
    top_x, y_ticks = max(c["x"]), nice_steps(max(max(c[n]) for n in names))

    def x_of(x):
        return left + (right - left) * x / top_x

    def y_of(ms):
        return bottom - (bottom - TOP) * max(ms, 0) / y_ticks[-1]

    out.append(text(left, TOP - 14, title, size=12))
    for y in y_ticks:
        out += [line(left, y_of(y), right, y_of(y)), text(left - 5, y_of(y) + 4, f"{y:g} ms", "end", "#555", 10)]
    for x in c["x"]:
        if x == top_x or x_of(top_x) - x_of(x) > 24 and (x == 0 or x_of(x) - left > 20):
            out.append(text(x_of(x), bottom + 15, f"{x}" if top_x < 1000 else f"{x / 1024:.0f}K", "middle", "#555", 10))
    labels = []
    for name in names:
        places = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(c["x"], c[name]))
        dash = ' stroke-dasharray="4 3"' if name == "limit" else ""
        out.append(f'<polyline points="{places}" fill="none" stroke="{COLORS[name]}" stroke-width="1.6"{dash}/>')
        labels.append((y_of(c[name][-1]), name))
    for y, name in spread(labels, TOP, bottom, 12):
        out.append(text(right + 3, y + 3, name, color=COLORS[name], size=10))


def plot(title, panels):
    """panels: [(title, curves)] side by side. The file's text."""
    width = len(panels) * (WIDTH + GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
           'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">', f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
           f"<title>{escape(title)}</title>", text(LEFT, 20, title, color="#555", size=12)]
    for i, (name, c) in enumerate(panels):
        panel(out, i * (WIDTH + GAP) + LEFT, name, c)
    return "\n".join([*out, "</svg>"]) + "\n"


def read(paths):
    """{model: (title, {series: points by x})}"""
    models = {}
    for path in paths:
        run = json.loads(pathlib.Path(path).read_text())
        title = f"{run['model']}, {run['cpu']}, {run['threads']} threads, kernels {run['isa']}"
        _, series = models.setdefault(run["model"], (title, {}))
        for p in run["growth"]:
            points = series.setdefault(p["series"], {})
            points[p["x"]] = min(p, points.get(p["x"], p), key=lambda q: q["seconds"])
    return {m: (title, {s: [p for _, p in sorted(points.items())] for s, points in series.items()})
            for m, (title, series) in models.items()}


def table(model, series):
    """Prints the points and the verdicts; whether all is as it should be."""
    good = True
    print(f"{model}")
    for name, points in series.items():
        c = curves(points)
        print(f"  {name}: {CONTEXT.get(name) or OTHERS[name]}")
        for i, p in enumerate(points):
            token = next((q["seconds"] for q in series.get("decode", []) if q["x"] == p["x"]), None) if name == "step" else None
            times = p["equal_cost_tokens"] * token / p["seconds"] if token else 0
            more = f"   decoding its FLOPs takes {times:.1f} times as long" if times else ""
            print(f"    {p['x']:6d} {c['all'][i]:10.2f} ms   attention {c['attention'][i]:9.2f}   adapters "
                  f"{c['adapters'][i]:8.2f}   the rest {c['the rest'][i]:9.2f}   limit {c['limit'][i]:9.2f}{more}")
        for what, measured, allowed in judge(name, c):
            good = good and measured <= allowed
            print(f"    {'as it should be' if measured <= allowed else 'NOT AS IT SHOULD BE'}: {what} {100 * measured:.0f} %")
    return good


def main():
    a = argparse.ArgumentParser(description="growth of costs against theory")
    a.add_argument("files", nargs="+")
    a.add_argument("--svg", type=pathlib.Path, help="folder for the plots")
    a.add_argument("--strict", action="store_true")
    o = a.parse_args()
    good = True
    for model, (title, series) in read(o.files).items():
        good = table(model, series) and good
        for kind, names in (("context", CONTEXT), ("streams", OTHERS)):
            panels = [(names[n], curves(series[n])) for n in names if len(series.get(n, [])) > 1]
            if o.svg and panels:
                o.svg.mkdir(parents=True, exist_ok=True)
                name = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_").split("_")
                path = o.svg / f"growth_{'_'.join(name[:2])}_{kind}.svg"
                path.write_text(plot(title, panels))
                print(f"{path}")
    sys.exit(1 if o.strict and not good else 0)


if __name__ == "__main__":
    main()
