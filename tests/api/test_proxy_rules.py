"""Which node a proxy of docker/ sends a request to, when it waits and when it sends one again: nginx, HAProxy and Envoy before
two stand-ins that tell what arrived. Streams and sessions of real servers behind them: test_proxies.py."""
import re
import threading
import time
import uuid

import pytest

import harness
import proxies
from proxies import KEYS

if harness.TIME_FACTOR > 1:
    pytest.skip("no server of ours runs here: nothing for a sanitizer to see", allow_module_level=True)

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SESSIONS = "/v1/sessions"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def stubs():
    pair = [proxies.StubNode("1"), proxies.StubNode("2")]
    yield pair
    for node in pair:
        node.close()


@pytest.fixture(scope="module", params=proxies.KINDS)
def running(request, stubs):
    if why := proxies.missing(request.param):
        pytest.skip(why)
    with proxies.Proxy(request.param, [n.address for n in stubs]) as p:
        yield p


@pytest.fixture
def proxy(running, stubs):
    for node in stubs:
        node.reset()
    wait_up(running, stubs)
    return running


def wait_up(proxy, stubs):
    """Until the proxy sends requests to both (HAProxy has to see them well)."""
    harness.until(lambda: len({node_of(proxy, "GET", "/v1/models") for _ in range(16)}) == 2, told=proxy.log_text)
    for node in stubs:
        node.seen.clear()


def node_of(proxy, method, path, body=None, headers=None):
    r = proxy.request(method, path, body, headers)
    assert r.status == 200, (r.status, r.body)
    return r.json()["node"]


def own_node(proxy, stubs, key):
    name = node_of(proxy, "GET", f"{SESSIONS}/ses_{key}")
    for node in stubs:
        node.seen.clear()
    return next(n for n in stubs if n.name == name)


def arrived(stubs):
    return [(n.name, *request) for n in stubs for request in n.seen]


# ---- which node ----

def test_every_form_of_a_key_leads_to_one_node(proxy):
    used = set()
    for key in KEYS:
        forms = [("POST", CHAT, {"x-session-id": key}), ("POST", CHAT, {"X-Session-Id": f"ses_{key}"}),
                 ("POST", "/v1/completions", {"X-OpenWebUI-Chat-Id": key}),
                 ("POST", CHAT, {"x-session-id": "", "X-OpenWebUI-Chat-Id": key}),
                 ("POST", CHAT, {"x-session-id": key, "X-OpenWebUI-Chat-Id": "other"}),
                 ("POST", SESSIONS, {"x-session-id": key}),
                 ("POST", CHAT, {"x-session-id": f"{key}--0a1b"}),
                 ("GET", f"{SESSIONS}/ses_{key}", {}), ("GET", f"{SESSIONS}/ses_{key}?after=1", {}),
                 ("GET", f"{SESSIONS}/ses_{key}/qttt/jobs", {}), ("POST", f"{SESSIONS}/ses_{key}/fork", {}),
                 ("GET", f"{SESSIONS}/ses_{key}--0a1b2c", {}), ("DELETE", f"{SESSIONS}/ses_{key}--0a--1b/adapter", {}),
                 ("GET", f"/v1/qttt/jobs/qttt_{key}_1", {}), ("GET", f"/v1/qttt/jobs/qttt_{key}--0a1b_12", {}),
                 ("POST", f"/v1/qttt/jobs/qttt_{key}_3/cancel", {}), ("GET", f"/v1/qttt/jobs/qttt_{key}_40/events?after=3", {}),
                 # The path says where the session is; the header may name what a fork is to be called.
                 ("POST", f"{SESSIONS}/ses_{key}/fork", {"x-session-id": "child"}),
                 ("GET", f"/v1/qttt/jobs/qttt_{key}_1", {"x-session-id": "child", "x-request-id": "r" * 20})]
        found = {form[:2] + (str(form[2]),): node_of(proxy, form[0], form[1], BODY if form[0] == "POST" else None, form[2])
                 for form in forms}
        assert len(set(found.values())) == 1, (key, found)
        used |= set(found.values())
    assert used == {"1", "2"}


def test_a_key_is_passed_on_as_it_is(proxy, stubs):
    proxy.request("POST", CHAT, BODY, {"x-session-id": "ses_abc--1", "x-request-id": "mine"})
    proxy.request("POST", SESSIONS, BODY, {"x-openwebui-chat-id": "chat-7"})
    (_, _, _, first, body), (_, _, _, second, _) = sorted(arrived(stubs), key=lambda a: a[2])
    assert first["x-session-id"] == "ses_abc--1" and first["x-request-id"] == "mine"
    assert body == harness.json.dumps(BODY).encode()
    assert "chat-7" in (second.get("x-session-id"), second.get("x-openwebui-chat-id"))


def test_a_session_without_a_key_gets_a_uuid(proxy, stubs):
    given = set()
    for headers in ({}, {"x-session-id": ""}, {"Idempotency-Key": "two words"}, {}):
        for node in stubs:
            node.seen.clear()
        made_at = node_of(proxy, "POST", SESSIONS, BODY, headers)
        key = arrived(stubs)[0][3]["x-session-id"]
        assert UUID.fullmatch(key), key
        given.add(key)
        assert node_of(proxy, "GET", f"{SESSIONS}/ses_{key}") == made_at
    assert len(given) == 4


def test_a_repeated_creation_meets_the_first_one(proxy, stubs):
    """The Idempotency-Key is the session's key, so that the node that knows the result is asked again."""
    keys = [f"retry-{uuid.UUID(int=i * 7919 << 64)}" for i in range(8)]
    for key in keys:
        made_at = {node_of(proxy, "POST", SESSIONS, BODY, {"Idempotency-Key": key}) for _ in range(3)}
        assert made_at == {node_of(proxy, "GET", f"{SESSIONS}/ses_{key}")}
    assert {a[3]["x-session-id"] for a in arrived(stubs) if a[1] == "POST"} == set(keys)


@pytest.mark.parametrize("headers", [{}, {"x-session-id": ""}, {"X-OpenWebUI-Chat-Id": ""}, {"x-request-id": ""},
                                     {"x-request-id": "1"}])
def test_without_a_key_both_nodes_get_requests(proxy, stubs, headers):
    """Also when a header is there and empty, or is the same for all. And nobody is given a session."""
    for _ in range(40):  # all at one node: once in 2^39
        assert proxy.request("POST", CHAT, BODY, headers).status == 200
    assert {a[0] for a in arrived(stubs)} == {"1", "2"}
    assert all(not a[3].get("x-session-id") for a in arrived(stubs))
    assert all(a[3]["x-request-id"] for a in arrived(stubs))


def test_a_requests_job_is_found_by_its_request_id(proxy, stubs):
    """The key of a job without a session is the request's id: the proxy's, or the client's."""
    for given in ({}, {}, {}, {"x-request-id": "0123456789abcdef-mine"}):
        for node in stubs:
            node.seen.clear()
        made_at = node_of(proxy, "POST", CHAT, BODY, given)
        request_id = arrived(stubs)[0][3]["x-request-id"]
        assert given.get("x-request-id", request_id) == request_id
        assert node_of(proxy, "GET", f"/v1/qttt/jobs/qttt_{request_id}_1") == made_at


def test_metrics_are_not_for_the_world(proxy, stubs):
    r = proxy.request("GET", "/metrics")
    assert r.status == 404 and set(r.json()["error"]) == {"message", "type", "param", "code"}
    assert arrived(stubs) == []


def test_the_node_is_told_that_a_proxy_asks(proxy, stubs):
    """Without keys it tells clients of its own machine more than others: a proxy there must not pass for one."""
    for given in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": ""}):
        for key in ({}, {"x-session-id": "user_7"}):
            assert proxy.request("GET", "/v1/admin/state", headers={**given, **key}).status == 200
            assert proxy.request("POST", CHAT, BODY, {**given, **key}).status == 200
    assert len(arrived(stubs)) == 12
    # As a header of this hop alone it would not be passed on: Envoy refuses that, the others pass it on.
    r = proxy.request("GET", "/v1/admin/state", headers={"Connection": "close, x-forwarded-for"})
    assert r.status == (400 if proxy.kind == "envoy" else 200)
    last = {a[3].get("x-forwarded-for", "").split(",")[-1].strip() for a in arrived(stubs)}
    assert len(last) == 1 and last.isdisjoint({"", "203.0.113.9"}), last  # of this machine: Envoy calls it by another address


# ---- waiting, and sending again ----

def not_ready(proxy, node):
    """Returns when the proxy has noticed: HAProxy and Envoy ask twice a second, nginx before each request."""
    node.ready = False
    harness.until(lambda: proxy.kind == "nginx" or node.refusals > 0, told=proxy.log_text)
    time.sleep(0.2)


def later(seconds, what):
    t = threading.Timer(seconds, what)
    t.start()
    return t


@pytest.mark.parametrize("how", ["refused", "not ready", "503"])
def test_a_sessions_request_waits_for_its_node(proxy, stubs, how):
    node = own_node(proxy, stubs, "user_7")
    if how == "refused":
        node.close()
        timer = later(1, node.listen)
    elif how == "not ready":
        not_ready(proxy, node)
        timer = later(1, lambda: setattr(node, "ready", True))
    else:  # as a node does that begins to drain between the proxy's question and its request
        answers = [(503, '{"error":"draining"}')]
        node.script = lambda *_: answers.pop() if answers else (200, '{"node":"%s"}' % node.name)
        timer = None
    start = time.monotonic()
    assert node_of(proxy, "POST", CHAT, BODY, {"x-session-id": "user_7"}) == node.name
    if timer is not None:
        timer.join()
        assert time.monotonic() - start > 0.2, "nothing to wait for"
    sent = arrived(stubs)
    assert [a[0] for a in sent] == [node.name] * (2 if how == "503" else 1)
    assert all(a[4] == harness.json.dumps(BODY).encode() for a in sent)


@pytest.mark.parametrize("how", ["refused", "not ready", "503"])
def test_a_request_without_a_session_goes_to_the_other_node(proxy, stubs, how):
    away, other = stubs
    if how == "refused":
        away.close()
        time.sleep(1.2)
    elif how == "not ready":
        not_ready(proxy, away)
    else:
        away.ready = False  # and nobody has noticed yet
        away.script = lambda *_: (503, "{}")
    for _ in range(12):
        assert node_of(proxy, "POST", CHAT, BODY) == other.name
    assert len(other.seen) == 12


@pytest.mark.parametrize("headers", [{}, {"x-session-id": "user_7"}])
def test_what_may_have_run_is_not_sent_again(proxy, stubs, headers):
    """The node took the request and hung up: the client has to decide."""
    for node in stubs:
        node.script = lambda *_: None
    for method, path in (("POST", CHAT), ("POST", SESSIONS), ("DELETE", f"{SESSIONS}/ses_user_7")):
        before = len(arrived(stubs))
        r = proxy.request(method, path, BODY if method == "POST" else None, headers)
        assert r.status == 502, (method, path, r.status)
        assert set(r.json()["error"]) == {"message", "type", "param", "code"}
        assert len(arrived(stubs)) == before + 1, (method, path, arrived(stubs)[before:])


def test_a_connection_that_the_node_closed_meanwhile_costs_nothing(proxy, stubs):
    """Keep-alive: the proxy keeps connections to a node, which is restarted; the next request must not meet a dead one."""
    node = own_node(proxy, stubs, "user_7")
    for _ in range(3):
        assert node_of(proxy, "POST", CHAT, BODY, {"x-session-id": "user_7"}) == node.name
        node.close()
        node.listen()
    assert [a[0] for a in arrived(stubs)] == [node.name] * 3


def test_errors_of_a_node_pass_through(proxy, stubs):
    for status in (400, 404, 409, 429, 500):
        for node in stubs:
            node.script = lambda *_: (status, '{"error":{"message":"m"}}')  # noqa: B023 (used before the next round)
        before = len(arrived(stubs))
        r = proxy.request("POST", CHAT, BODY)
        assert (r.status, r.json()) == (status, {"error": {"message": "m"}})
        assert len(arrived(stubs)) == before + 1
