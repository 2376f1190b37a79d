"""load_svg.py - the curves of a sweep as an SVG: latencies over the request rate (logarithmic), and what came out of it."""
import math
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 760, 260, 76, 150, 44, 66
HEIGHT = TOP + 2 * PANEL + GAP + 52
LATENCIES = [("median_ttft_ms", "TTFT p50", "#1f6feb", ""), ("p99_ttft_ms", "TTFT p99", "#1f6feb", "5 4"),
             ("median_itl_ms", "ITL p50", "#bf5700", ""), ("p99_itl_ms", "ITL p99", "#bf5700", "5 4"),
             ("median_e2el_ms", "E2EL p50", "#4a7c2c", ""), ("p99_e2el_ms", "E2EL p99", "#4a7c2c", "5 4")]
RATES = [("request_throughput", "completed", "#555555", ""), ("request_goodput", "goodput", "#8a2be2", "")]


def nice_steps(top, n=5):
    """Round values from 0 to beyond `top`, about n of them."""
    rough = max(top, 1e-9) / n
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
    return [i * step for i in range(int(math.ceil(top / step)) + 1)]


def text(x, y, s, anchor="start", color="#222", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" text-anchor="{anchor}">{escape(s)}</text>'


def line(x1, y1, x2, y2, color="#ddd", dash=""):
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{extra}/>'


def spread(labels, top, bottom, apart=14):
    """Moves labels [(y, ...)] apart, so that none covers another, without leaving [top, bottom]."""
    labels = sorted(labels)
    out, last = [], top - apart
    for y, *rest in labels:
        last = max(y, last + apart)
        out.append([last, *rest])
    for i in range(len(out) - 1, -1, -1):
        limit = bottom if i == len(out) - 1 else out[i + 1][0] - apart
        out[i][0] = min(out[i][0], limit)
    return out


def panel(out, top, title, points, series, x_of, y_of, ticks, unit):
    right = WIDTH - RIGHT
    out.append(text(LEFT, top - 12, title, size=13))
    for value in ticks:
        y = y_of(value)
        out.append(line(LEFT, y, right, y))
        out.append(text(LEFT - 6, y + 4, f"{value:g}{unit}", "end", "#555", 11))
    labels = []
    for name, label, color, dash in series:
        places = [(x_of(p["request_rate"]), y_of(p[name])) for p in points if p[name] is not None]
        if not places:
            continue
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        line_points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{line_points}" fill="none" stroke="{color}" stroke-width="1.8"{extra}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>' for x, y in places]
        labels.append((places[-1][1], label, color))
    out += [text(right + 8, y + 4, label, color=color) for y, label, color in spread(labels, top, top + PANEL)]


def curves(points, knee, title):
    """points: the summaries of a sweep with `request_rate`, in its order; knee: index of one, or None. The file's text."""
    rates = [p["request_rate"] for p in points]
    x_ticks = nice_steps(max(rates), 6)
    right, second = WIDTH - RIGHT, TOP + PANEL + GAP
    bottom = second + PANEL

    def x_of(rate):
        return LEFT + (right - LEFT) * rate / x_ticks[-1]

    found = [p[name] for p in points for name, *_ in LATENCIES if p[name] > 0] or [1.0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found) * 1.001))
    high = max(high, low + 1)

    def log_y(ms):
        share = (math.log10(max(ms, 10 ** low)) - low) / (high - low)
        return TOP + PANEL * (1 - share)

    y_ticks = nice_steps(max(max(p["request_throughput"], p["request_goodput"] or 0, p["request_rate"]) for p in points))

    def rate_y(rate):
        return second + PANEL * (1 - rate / y_ticks[-1])

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f"<title>{escape(title)}</title>", text(LEFT, 16, title, color="#555", size=11)]
    for value in x_ticks:
        out += [line(x_of(value), TOP, x_of(value), TOP + PANEL), line(x_of(value), second, x_of(value), bottom),
                text(x_of(value), bottom + 18, f"{value:g}", "middle", "#555", 11)]
    if knee is not None:
        x = x_of(rates[knee])
        out += [line(x, TOP, x, bottom, "#999", "2 3"),
                text(x, TOP + PANEL + 18, "highest goodput", "middle", "#555", 11)]
    panel(out, TOP, "latency", points, LATENCIES, x_of, log_y, [10.0 ** i for i in range(low, high + 1)], " ms")
    out.append(line(x_of(0), rate_y(0), x_of(y_ticks[-1] if y_ticks[-1] < x_ticks[-1] else x_ticks[-1]),
                    rate_y(min(y_ticks[-1], x_ticks[-1])), "#bbb", "2 3"))
    panel(out, second, "requests/s out of requests/s in", points, RATES, x_of, rate_y, y_ticks, "")
    out.append(text((LEFT + right) / 2, HEIGHT - 12, "requests/s offered", "middle", "#555"))
    return "\n".join([*out, "</svg>"]) + "\n"
