"""What operators watch: /metrics, the alert rules, the dashboard and their documentation agree with each other and with a
live server. The judge is Prometheus's own promtool; tools/promtool.sh fetches it."""
import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import harness
from harness import ROOT, Server, chat, words

DOCKER = ROOT / "docker"
OPERATIONS = (ROOT / "docs/operations.md").read_text()
# The rules' own tests judge files alone: once, in the ordinary build.
once = pytest.mark.skipif(harness.TIME_FACTOR > 1, reason="looks at no binary; the ordinary build's run has done so")
# Labels that the scrape adds.
SCRAPED = {"instance", "job", "le"}


def promtool(*args, input=None):
    tool = shutil.which("promtool") or str(ROOT / "build/promtool")
    if not pathlib.Path(tool).exists():
        pytest.skip("no promtool: tools/promtool.sh could not fetch it")
    return subprocess.run([tool, *map(str, args)], input=input, capture_output=True, text=True, timeout=harness.LONG)


def families(text):
    return {f.name: f for f in text_string_to_metric_families(text)}


def page(server):
    return server.get("/metrics").body.decode()


@pytest.fixture(scope="module")
def busy(server):
    """The text of /metrics after every kind of work, so that every histogram and every label has been used."""
    body = chat("Tell me about " + words(40, seed=901), max_tokens=4, ignore_eos=True)
    assert server.post("/v1/chat/completions", body).status == 200
    adapted = {**body, "qttt": {"mode": "on", "steps": 1, "span_tokens": 16, "guard": False, "context": {"tokens": 32}}}
    assert server.post("/v1/chat/completions", adapted).json()["qttt"]["status"] == "succeeded"
    assert server.get("/v1/sessions/ses_nobody").status == 404
    return page(server)


# ---- the page ----

def test_promtool_accepts_the_page(busy):
    r = promtool("check", "metrics", input=busy)
    complaints = [line for line in (r.stdout + r.stderr).splitlines()
                  if not re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line.strip())]
    assert r.returncode in (0, 3) and complaints == [], complaints


def test_promtool_can_refuse():
    assert promtool("check", "metrics", input="# TYPE a counter\na 1\na{\n").returncode != 0


def test_a_model_may_have_any_name():
    with Server("--model-name", 'a"b\\c') as s:
        text = page(s)
        assert families(text)["qttt_build_info"].samples[0].labels["model"] == 'a"b\\c'
        assert promtool("check", "metrics", input=text).returncode in (0, 3)


def test_every_histogram_is_fed(busy):
    for name, f in families(busy).items():
        if f.type == "histogram":
            count = next(s.value for s in f.samples if s.name == name + "_count")
            total = next(s.value for s in f.samples if s.name == name + "_sum")
            assert count > 0 and total > 0, name


def test_time_to_first_token_lies_within_the_request(server):
    def sums():
        m = server.metrics()
        return [m[f"qttt_{n}_seconds_sum", ()] for n in ("time_to_first_token", "inter_token", "request", "prefill", "decode")]
    before = sums()
    assert server.post("/v1/chat/completions", chat(words(60, seed=902), max_tokens=8, ignore_eos=True)).status == 200
    first, gaps, whole, prefill, decode = (b - a for a, b in zip(before, sums()))
    assert 0 < prefill <= first < whole and 0 < gaps <= whole - first + 1e-3 and 0 < decode < whole


def test_jobs_count_by_outcome(server):
    """Also those that end before they have a result."""
    def outcomes():
        return {dict(labels)["outcome"]: v for (n, labels), v in server.metrics().items() if n == "qttt_jobs_total"}
    ses = server.post("/v1/sessions", {"prompt": words(300, seed=903)}).json()["id"]
    jobs, before = f"/v1/sessions/{ses}/qttt/jobs", outcomes()
    long = server.post(jobs, {"steps": 200, "span_tokens": 64, "guard": False, "seed": 1}).json()["id"]
    queued = server.post(jobs, {"steps": 1, "span_tokens": 16, "guard": False, "seed": 2}).json()["id"]
    for job in (queued, long):
        server.post(f"/v1/qttt/jobs/{job}/cancel", None)
    for job in (queued, long):
        assert server.job(job)["status"] == "cancelled"
    good = server.post(jobs, {"steps": 1, "span_tokens": 16, "guard": False, "seed": 3}).json()["id"]
    assert server.job(good)["status"] == "succeeded"
    after = outcomes()
    assert after["cancelled"] - before["cancelled"] == 2 and after["succeeded"] - before["succeeded"] == 1


# ---- the documentation ----

def documented():
    rows = re.findall(r"^\| `([a-z_:]+)` \| (counter|gauge|histogram) \| ([^|]*) \|", OPERATIONS, re.M)
    assert len({name for name, _, _ in rows}) == len(rows) > 40
    return {name: (kind, {x.strip() for x in labels.split(",") if x.strip()}) for name, kind, labels in rows}


def exposed(text):
    """Names as the page spells them: the parser drops _total."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def test_every_metric_has_its_row_and_every_row_its_metric(busy):
    rows, live = documented(), exposed(busy)
    assert {name: kind for name, (kind, _) in rows.items()} == live
    for f in families(busy).values():
        for s in f.samples:
            name = s.name if s.name in rows else f.name
            assert set(s.labels) - {"le"} <= rows[name][1], s


# ---- rules and dashboard ----

def rules():
    document = yaml.safe_load((DOCKER / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads((DOCKER / "grafana-dashboard.json").read_text())


def dashboard_expressions():
    out = [t["expr"] for p in dashboard()["panels"] for t in p.get("targets", [])]
    assert len(out) > 40
    return [e.replace("$__rate_interval", "1m").replace("$instance", ".*") for e in out]


def selectors(expr):
    """(metric, labels of its matchers) of an expression."""
    for name, matchers in re.findall(r"\b((?:qttt_|process_|vllm:)[a-z_:]+|up)\b(?:\{([^}]*)\})?", expr):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))


@pytest.mark.parametrize("where", ["rules", "dashboard"])
def test_what_they_name_exists(where, busy):
    rows, live = documented(), exposed(busy)
    expressions = [r["expr"] for r in rules()] if where == "rules" else dashboard_expressions()
    seen = set()
    for expr in expressions:
        found = list(selectors(expr))
        assert found, expr
        for name, labels in found:
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name == "up" or name in live or (base in live and live[base] == "histogram"), (name, expr)
            known = rows[name if name in rows else base][1] if name != "up" else set()
            assert labels <= known | SCRAPED, (labels, expr)
            seen.add(base)
    assert len(seen) >= 15


def test_values_of_labels_exist():
    """What rules and dashboard ask of `outcome` and `reason` are words that the source knows."""
    source = "".join(p.read_text() for p in (ROOT / "server").glob("*.c"))
    for expr in [r["expr"] for r in rules()] + dashboard_expressions():
        for value in re.findall(r'(?:outcome|reason)=~?"([^"]*)"', expr):
            for word in value.split("|"):
                assert f'"{word}"' in source, word


def test_configuration_and_rules_are_valid(tmp_path):
    r = promtool("check", "config", DOCKER / "prometheus.yml")
    assert r.returncode == 0, r.stderr
    expressions = dashboard_expressions()
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "d", "rules": [
        {"record": f"panel_{i}", "expr": e} for i, e in enumerate(expressions)]}]}))
    r = promtool("check", "rules", path)
    assert r.returncode == 0 and f"{len(expressions)} rules found" in r.stdout, r.stdout + r.stderr
    path.write_text(json.dumps({"groups": [{"name": "d", "rules": [{"record": "x", "expr": "sum(rate(a[1m])"}]}]}))
    assert promtool("check", "rules", path).returncode != 0


@once
def test_rules_fire_and_stay_silent():
    r = promtool("test", "rules", DOCKER / "alerts_test.yml")
    assert r.returncode == 0, r.stdout + r.stderr


@once
@pytest.mark.parametrize("mutation", ["never", "always", "at once"])
def test_the_tests_of_the_rules_notice_a_broken_rule(mutation, tmp_path):
    """A rule that never fires, always fires, or fires at once: docker/alerts_test.yml fails for each of them by name."""
    (tmp_path / "alerts_test.yml").write_text((DOCKER / "alerts_test.yml").read_text())
    mutant, broken = yaml.safe_load((DOCKER / "alerts.yml").read_text()), set()
    for group in mutant["groups"]:
        for rule in group["rules"]:
            if mutation == "at once":
                if "for" not in rule:
                    continue
                rule["for"] = "0s"
            else:
                rule["expr"] = {"never": "vector(0) > 1", "always": 'label_replace(vector(1), "instance", "b", "", "")'}[mutation]
            broken.add(rule["alert"])
    (tmp_path / "alerts.yml").write_text(json.dumps(mutant))
    r = promtool("test", "rules", tmp_path / "alerts_test.yml")
    assert r.returncode != 0 and len(broken) > 12
    assert set(re.findall(r"alertname: ?(\w+)", r.stdout + r.stderr)) == broken


def test_every_alert_has_a_row_that_says_what_to_do():
    section = OPERATIONS.split("\n## Failures")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ") and "what you see |" not in line]
    assert len(rows) >= 20
    for row in rows:
        assert len(row) == 3 and all(len(cell.strip()) >= 3 for cell in row), row
    for rule in rules():
        assert rule["annotations"]["runbook"] == rule["alert"] and rule["labels"]["severity"] in ("critical", "warning", "info")
        assert sum(f"`{rule['alert']}`" in row[0] for row in rows) == 1, rule["alert"]
    named = set(re.findall(r"`(Qttt\w+)`", section))
    assert named == {rule["alert"] for rule in rules()}


def test_every_error_code_of_the_table_exists():
    """A code that the table explains is one that the server can say."""
    section = OPERATIONS.split("\n## Failures")[1].split("\n## ")[0]
    source = "".join(p.read_text() for folder in ("server", "core") for p in (ROOT / folder).glob("*.c"))
    first = [line.strip("|").split(" | ")[0] for line in section.splitlines() if re.match(r"\| .*\d{3} `", line)]
    codes = {c for cell in first for c in re.findall(r"`([a-z_]+)`", cell)}
    assert len(codes) >= 12
    for code in codes:
        assert f'"{code}"' in source, code


def test_the_dashboard_is_one_that_grafana_takes():
    d = dashboard()
    assert d["title"] and d["uid"] and d["schemaVersion"] >= 30
    assert {v["name"] for v in d["templating"]["list"]} == {"datasource", "instance"}
    ids = [p["id"] for p in d["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for p in d["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, p["title"]
        taken |= cells
        if p["type"] != "row":
            assert p["title"] and p["targets"] and p["datasource"]["uid"] == "${datasource}"
            refs = [t["refId"] for t in p["targets"]]
            assert len(set(refs)) == len(refs)


# ---- sizes ----

@pytest.mark.parametrize("column,file", [(2, "SmolLM2-135M-Instruct.Q4_1.gguf"), (3, "gemma-3-270m-q4_k_m.gguf")])
def test_sizes_of_the_documentation_are_those_of_inspect(column, file):
    path = ROOT / "models" / file
    if not path.exists():
        pytest.skip(f"no models/{file}: make model-gemma fetches it")
    r = subprocess.run([harness.BINARY, "inspect", "--json", str(path)], capture_output=True, text=True, timeout=harness.LONG)
    memory = json.loads(r.stdout)["memory"]
    section = OPERATIONS.split("\n## Sizing")[1].split("\n## ")[0]
    table = [int(row.split("|")[column + 1].replace(",", "")) for row in section.splitlines() if re.match(r"\| [a-z].*\d,\d{3}", row)]
    keys = ["weight_bytes", "kv_bytes_per_token_bf16", "kv_bytes_full_context_bf16", "adapter_bytes_full",
            "adapter_bytes_lora_rank_8", "training_bytes_full", "training_bytes_lora_rank_8"]
    assert table == [memory[k] for k in keys]
    per_token = memory["kv_bytes_per_token_bf16"]
    if column == 2:
        assert f"{per_token:,} bytes = {100 * 4096 * per_token / 2**30:.1f} GiB" in section


@pytest.mark.parametrize("column,file,tokens", [(2, "SmolLM2-135M-Instruct.Q4_1.gguf", 4096), (3, "gemma-3-270m-q4_k_m.gguf", 32768)])
def test_the_table_of_a_gpus_memory_is_that_of_inspect(column, file, tokens):
    path = ROOT / "models" / file
    if not path.exists():
        pytest.skip(f"no models/{file}: make model-gemma fetches it")
    words = ("--json", "--device", "cuda", "--contexts", "64", "--tokens", str(tokens), "--memory", "24GiB")
    r = subprocess.run([harness.BINARY, "inspect", str(path), *words], capture_output=True, text=True, timeout=harness.LONG)
    d = json.loads(r.stdout)["device"]
    section = OPERATIONS.split("\n### Memory")[1].split("\n### ")[0]
    cells = [row.split("|")[column].strip().replace(",", "") for row in section.splitlines() if re.match(r"\| \w.*\| [\d,/ ]+ \|$", row)]
    keys = ["weights", "workspaces", "scratch", "runtime", "margin", "adapter_cache", "training_full", "training_lora_rank_8", "adapter_full",
            "adapter_lora_rank_8", "kv_token_bf16", "kv_token_q8", "kv_context_bf16", "kv_contexts_bf16", "kv_contexts_q8", "total_bf16"]
    fits = [f"{d['fits_bf16'][k]} / {d['fits_q8'][k]}" for k in ("without_adapters", "with_lora_adapters", "with_full_adapters")]
    assert cells == [str(d[k]) for k in keys] + fits
    parts = sum(d[k] for k in ("weights", "workspaces", "scratch", "runtime", "margin", "adapter_cache", "training_lora_rank_8"))
    assert d["total_bf16"] == parts + d["kv_contexts_bf16"] and d["kv_contexts_bf16"] == 64 * tokens * d["kv_token_bf16"]
    n = d["fits_bf16"]["without_adapters"]
    assert parts + n * d["kv_context_bf16"] <= 24 << 30 < parts + (n + 1) * d["kv_context_bf16"]


@pytest.mark.real_model
def test_inspect_tells_what_is_then_measured(server):
    """An adapter's size, the K/V of a page and a session's memory are what the documentation says."""
    r = subprocess.run([harness.BINARY, "inspect", "--json", harness.MODEL], capture_output=True, text=True, timeout=harness.LONG)
    memory = json.loads(r.stdout)["memory"]
    before = server.metrics()
    ses = server.post("/v1/sessions", {"messages": [{"role": "user", "content": words(400, seed=904)}]}).json()
    job = {"steps": 1, "span_tokens": 16, "guard": False, "seed": 4}
    made = []
    for fields in (job, {**job, "adapter": "lora"}):
        job_id = server.post(f"/v1/sessions/{ses['id']}/qttt/jobs", fields).json()["id"]
        made.append(server.job(job_id)["result"]["adapter_bytes"])
    assert made == [memory["adapter_bytes_full"], memory["adapter_bytes_lora_rank_8"]]
    after = server.metrics()
    page_bytes = after["qttt_kv_bytes", ()] / after["qttt_kv_pages", ()]
    assert page_bytes == 64 * memory["kv_bytes_per_token_bf16"]
    per_token = (after["qttt_session_bytes", ()] - before["qttt_session_bytes", ()]) / ses["context_tokens"]
    assert 10 < per_token < 40  # 20 in the documentation; the fixed part of a session counts here too
    server.request("DELETE", f"/v1/sessions/{ses['id']}")
