"""test_growth.py - growth.py on curves that are known: what grows as it should passes, what does not is named; plots are XML
with every point in them."""
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import growth

XS = [1024, 2048, 4096, 8192]


def point(series, x, attention=0.0, adapters=0.0, rest=0.05, tokens=0.0):
    return {"series": series, "x": x, "seconds": attention + adapters + rest, "attention_seconds": attention,
            "adapters_seconds": adapters, "limit_seconds": 0.01, "equal_cost_tokens": tokens}


def verdicts(points):
    return [measured <= allowed for _, measured, allowed in growth.judge(points[0]["series"], growth.curves(points))]


def test_a_line_is_found_through_its_points():
    a, b = growth.fit([1, 2, 4], [5, 7, 11])
    assert abs(a - 3) < 1e-9 and abs(b - 2) < 1e-9
    assert growth.linear([1, 2, 4], [5, 7, 11]) < 1e-9
    assert growth.linear([1, 2, 4], [3, 2, 1]) == float("inf")  # falling


def test_attention_in_the_depth():
    assert verdicts([point("decode", x, 1e-5 * x + 0.01) for x in XS]) == [True, True]
    assert verdicts([point("decode", x, 1e-9 * x * x) for x in XS]) == [False, True]
    assert verdicts([point("step", x, 1e-5 * x, rest=0.05 + 1e-5 * x) for x in XS]) == [True, False]
    assert verdicts([point("step", x, 1e-5 * x, rest=0.05 + 1e-6 * x) for x in XS]) == [True, True]  # within the tolerance
    assert verdicts([point("prefill", x, 1e-5 * x) for x in XS[:2]]) == []  # two points say nothing


def test_streams_and_adapters():
    ns = [1, 2, 4, 8, 16]
    assert verdicts([point("streams", n, 1e-3 * n, rest=0.01 + 0.002 * n) for n in ns]) == [True, True]
    assert verdicts([point("streams", n, 1e-3 * n, rest=0.01 * n) for n in ns]) == [True, True]  # no gain, no loss
    assert verdicts([point("streams", n, 1e-3 * n, rest=0.01 * n ** 1.5) for n in ns]) == [True, False]
    assert verdicts([point("streams", n, 1e-3 * n * n) for n in ns]) == [False, True]
    xs = [0, 1, 2, 4, 8]
    assert verdicts([point("full adapters", x, adapters=1e-3 * x) for x in xs]) == [True, True]
    assert verdicts([point("full adapters", x, adapters=1e-3 * x * x) for x in xs]) == [False, True]
    assert verdicts([point("LoRA adapters", x, adapters=1e-3 * x, rest=0.05 * (1 + x)) for x in xs]) == [True, False]


def run(*arguments):
    return subprocess.run([sys.executable, growth.__file__, *map(str, arguments)], capture_output=True, text=True)


def test_the_command(tmp_path):
    head = {"model": "A <small> one-1.0", "cpu": "C & D", "threads": 2, "isa": "x"}
    parts = [[point("decode", x, 1e-5 * x) for x in XS[2:]] + [point("step", x, 1e-5 * x, tokens=290) for x in XS],
             [point("decode", x, 1e-5 * x) for x in XS[:2]] + [point("step", 8192, 1, tokens=290)], [point("streams", n, 1e-3 * n) for n in (1, 2, 4)]]
    files = []
    for i, points in enumerate(parts):
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(json.dumps({**head, "growth": points}))
    told = run(*files, "--svg", tmp_path / "plots", "--strict")
    assert told.returncode == 0 and "NOT AS" not in told.stdout, told
    # a token and a step take the same, wherever the context
    assert told.stdout.count("decoding its FLOPs takes 290.0 times as long") == 4
    for name, n_panels, n_points in (("context", 2, 4), ("streams", 1, 3)):
        root = ET.parse(tmp_path / "plots" / f"growth_a_small_{name}.svg").getroot()
        lines = root.findall("{http://www.w3.org/2000/svg}polyline")
        assert len(lines) == 4 * n_panels  # all, attention, the rest, limit
        assert all(len(x.get("points").split()) == n_points for x in lines)
    files[0].write_text(json.dumps({**head, "growth": [point("step", x, 1e-9 * x * x) for x in XS]}))
    told = run(files[0], "--strict")
    assert told.returncode == 1 and "NOT AS IT SHOULD BE: attention is linear" in told.stdout, told
    assert run(files[0]).returncode == 0
