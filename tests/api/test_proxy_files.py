"""What docker/envoy.yaml says that no run of it shows (test_proxies.py and test_proxy_rules.py have those), docker/compose.yaml,
which nothing here can run, and docker/render.sh."""
import os
import pathlib
import re
import subprocess

import pytest
import yaml

import proxies
from proxies import DOCKER

MIB_32 = 32 << 20


@pytest.fixture(scope="module")
def envoy():
    text = (DOCKER / "envoy.yaml").read_text()
    assert "<<" not in text, "Envoy's reader knows no merge keys"
    return yaml.safe_load(text)["static_resources"]


def manager(envoy):
    return envoy["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def virtual_host(envoy):
    hosts = manager(envoy)["route_config"]["virtual_hosts"]
    assert len(hosts) == 1 and hosts[0]["domains"] == ["*"]
    return hosts[0]


def test_envoy_neither_cuts_nor_repeats(envoy):
    m, host = manager(envoy), virtual_host(envoy)
    assert m["stream_idle_timeout"] == "1800s" and m["request_timeout"] == "0s"
    assert m["http_protocol_options"]["accept_http_10"]
    assert [f["name"].split(".")[-1] for f in m["http_filters"]] == ["buffer", "router"]
    assert m["http_filters"][0]["typed_config"]["max_request_bytes"] == MIB_32
    assert host["request_body_buffer_limit"] == MIB_32 == envoy["listeners"][0]["per_connection_buffer_limit_bytes"]
    assert all(r["route"]["timeout"] == "0s" for r in host["routes"] if "route" in r), "15 s without it"
    retry = host["retry_policy"]
    assert set(retry["retry_on"].split(",")) == {"connect-failure", "refused-stream", "retriable-status-codes"}
    assert retry["retriable_status_codes"] == [503]
    clusters = {c["name"]: c for c in envoy["clusters"]}
    assert set(clusters) == {"pinned", "ready"}
    same = ("type", "lb_policy", "ring_hash_lb_config", "load_assignment", "circuit_breakers")
    assert all(clusters["pinned"][k] == clusters["ready"][k] for k in same), "a key has one node in both"
    assert "health_checks" not in clusters["pinned"], "a session's node is its node, also while it restarts"
    assert clusters["ready"]["health_checks"][0]["http_health_check"]["path"] == "/readyz"
    assert clusters["ready"]["common_lb_config"]["healthy_panic_threshold"]["value"] == 0
    for c in clusters.values():
        assert c["circuit_breakers"]["thresholds"][0]["max_retries"] >= 1024, "3 without it"
        options = c["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        assert options["common_http_protocol_options"]["idle_timeout"] == "2s"


# ---- compose.yaml ----

@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_names_what_is_there(compose):
    services = compose["services"]
    assert set(services) == {"qttt-1", "qttt-2", "nginx", "haproxy", "envoy"}
    for name, s in services.items():
        for volume in s["volumes"]:
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                path = (DOCKER / source).resolve()
                assert path.exists() or path.name == "models", f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
            assert target.startswith("/")
        for network in s["networks"]:
            assert network in compose["networks"]
        for other, how in s.get("depends_on", {}).items():
            assert other in services and how["condition"] == "service_healthy"
    build = services["qttt-1"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == (DOCKER / "Dockerfile").resolve()
    assert "HEALTHCHECK" in (DOCKER / "Dockerfile").read_text(), "service_healthy waits for it"


def test_compose_nodes_keep_their_state_and_addresses_apart(compose):
    nodes = [compose["services"][n] for n in ("qttt-1", "qttt-2")]
    state = []
    for s in nodes:
        command = s["command"]
        folder = command[command.index("--state-dir") + 1]
        state += [v.split(":")[0] for v in s["volumes"] if v.split(":")[1] == folder]
    assert len(set(state)) == 2
    addresses = {s["networks"]["qttt"]["ipv4_address"] for s in nodes}
    subnet = compose["networks"]["qttt"]["ipam"]["config"][0]["subnet"]
    assert len(addresses) == 2 and all(a.rsplit(".", 1)[0] == subnet.rsplit(".", 1)[0] for a in addresses)


def test_compose_fits_the_proxies_files(compose):
    """Names, ports and folders that stand in two places."""
    for config in ("nginx.conf", "haproxy.cfg"):
        assert {"qttt-1:8080", "qttt-2:8080"} <= set(re.findall(r"qttt-\d:\d+", (DOCKER / config).read_text()))
    assert "EXPOSE 8080" in (DOCKER / "Dockerfile").read_text()
    for name in ("nginx", "haproxy", "envoy"):
        assert compose["services"][name]["ports"] == ["127.0.0.1:8080:8080"]
    nginx = compose["services"]["nginx"]
    at = nginx["volumes"][0].split(":")[1]
    assert nginx["environment"]["QTTT_CONF"] == at
    for named in re.findall(re.escape(at) + r"/(\S+)", nginx["entrypoint"][2]):
        assert (DOCKER / named).exists()
    targets = [v.split(":")[1] for v in compose["services"]["haproxy"]["volumes"]]
    conf = re.search(r"presetenv QTTT_CONF (\S+)", (DOCKER / "haproxy.cfg").read_text()).group(1)
    assert {f"{conf}/haproxy.cfg", f"{conf}/haproxy_hold.lua"} == set(targets)


# ---- render.sh ----

def render(text, tmp_path, **env):
    path = pathlib.Path(tmp_path) / "in"
    path.write_text(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QTTT_")}
    return subprocess.run([DOCKER / "render.sh", path], env={**clean, **env}, capture_output=True, text=True)


def test_render_replaces_its_own_names_and_nothing_else(tmp_path):
    text = "a ${QTTT_A:-x/y&z} $uri ${uri} ${QTTT_B:-} \\1 ${QTTT_A:-2}\n%s $QTTT_A\n"
    assert render(text, tmp_path).stdout == "a x/y&z $uri ${uri}  \\1 2\n%s $QTTT_A\n"
    assert render(text, tmp_path, QTTT_A="q:1 &\\").stdout.startswith("a q:1 &\\ $uri ${uri}  \\1 q:1 &\\\n")


def test_render_refuses_a_name_without_a_value(tmp_path):
    r = render("one\n${QTTT_NONE}\n", tmp_path)
    assert r.returncode != 0 and ":2: QTTT_NONE is not set" in r.stderr


def test_every_name_that_the_tests_set_is_one_of_the_files():
    """Else a test would believe that it has lowered a bound."""
    set_by_tests = set(re.findall(r'"(QTTT_[A-Z0-9_]+)"', pathlib.Path(proxies.__file__).read_text()))
    nginx = set(re.findall(r"\$\{(QTTT_[A-Z0-9_]+)", (DOCKER / "nginx.conf").read_text()))
    haproxy = set(re.findall(r"presetenv (QTTT_[A-Z0-9_]+)", (DOCKER / "haproxy.cfg").read_text()))
    assert set_by_tests <= nginx and haproxy <= set_by_tests
