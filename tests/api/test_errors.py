"""The error table and the three lists of parameters; ranges are taken from openapi.yaml itself."""
import json

import pytest

import harness
import spec
from harness import chat

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BASE = {CHAT: chat("Hi", max_tokens=1), COMPLETIONS: {"prompt": "Hi", "max_tokens": 1}}


def error(response, status, kind="invalid_request_error", **more):
    assert response.status == status, (response.status, response.body)
    e = response.json()["error"]
    assert e["type"] == kind
    for key, value in more.items():
        assert e[key] == value, e
    return e


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"7", b'"x"', b'{"messages": [}', b"{}{}", b"{} x", b"\xff\xfe",
                                  b'{"messages": [{"role": "user", "content": "\xff"}]}', b"{'a': 1}", b'{"a": NaN}',
                                  b'{"a": 01}', b'{"a": "\\ud800"}', b"[" * 5000, b'{"a":' * 5000])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json_object(server, path, body):
    error(server.post(path, body), 400)


def test_bad_json_is_told_with_its_position(server):
    e = error(server.post(CHAT, b'{\n  "messages": [,]\n}'), 400)
    assert "2" in e["message"], e


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_refused_parameters(server, path):
    refused = spec.parameters(path)["refused"]
    for name, neutral in refused.items():
        for value in (True, {"x": 1}, "x"):
            error(server.post(path, {**BASE[path], name: value}), 400, code="unsupported_parameter", param=name)
        for value in neutral:
            r = server.post(path, {**BASE[path], name: value})
            assert r.status == 200, f"{name}: {value!r} asks for nothing: {r.body}"
    everything = {**BASE[path], **{name: None for name in refused}}
    r = server.post(path, everything)
    assert r.status == 200 and "x-qttt-ignored-params" not in r.headers, "null counts as not given"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_inert_parameters(server, path):
    for value in ({"k": "v"}, "x", 7, True, None):
        r = server.post(path, {**BASE[path], **{name: value for name in spec.parameters(path)["inert"]}})
        assert r.status == 200, r.body
        assert "x-qttt-ignored-params" not in r.headers


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_parameter_of_the_openai_client_is_on_a_list(path):
    import typing

    from openai.types import completion_create_params as legacy
    from openai.types.chat import completion_create_params as modern
    known = typing.get_type_hints((modern if path == CHAT else legacy).CompletionCreateParamsBase)
    lists = spec.parameters(path)
    listed = {*lists["implemented"], *lists["inert"], *lists["refused"]}
    assert not set(known) - {"extra_headers", "timeout"} - listed
    assert len(listed) == sum(map(len, lists.values())), "a name on two lists"


def properties(schema):
    schema = spec.resolve(schema)
    out = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        out.update(properties(part))
    return out


def wrong_values(schema):
    """Values just outside what a property's schema allows."""
    schema = spec.resolve(schema)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if "enum" in schema:
        yield from ("none-of-them", 7, [])
    if "integer" in types or "number" in types:
        yield from ("1", True, [1], {})
        if "minimum" in schema:
            yield schema["minimum"] - 1
        if "exclusiveMinimum" in schema:
            yield schema["exclusiveMinimum"]
        if "maximum" in schema:
            yield schema["maximum"] * 1.5 + (0 if "integer" not in types else 1)
    if "integer" in types:
        yield from (1.5, 1e300)
    if types and "boolean" in types:
        yield from (0, "true", [], {})
    if types and "object" in types and "array" not in types:
        yield from ("x", 1, [])
    if types and "array" in types:
        yield from ("x", 1, {})


@pytest.mark.parametrize("path,component", [(CHAT, "ChatRequest"), (COMPLETIONS, "CompletionRequest")])
def test_values_out_of_range_are_refused_by_name(server, path, component):
    """Each property of the schema with wrong types and with values beyond its bounds; the error names the field."""
    n = 0
    for name, schema in properties(spec.component(component)).items():
        if name in ("prompt", "messages", "qttt", "model"):
            continue
        extra = {"logprobs": True} if name == "top_logprobs" else {"stream": True} if name == "stream_options" else {}
        for value in wrong_values(schema):
            r = server.post(path, {**BASE[path], **extra, name: value})
            e = error(r, 400)
            assert e["param"] and e["param"].startswith(name), (name, value, e)
            n += 1
    assert n > 100


def test_wrong_values_of_qttt_are_refused_by_name(server):
    (fields,) = [s["properties"] for s in spec.DOCUMENT["components"]["schemas"]["QtttRequest"]["oneOf"]
                 if "properties" in s]
    for name, schema in fields.items():
        for value in wrong_values(schema):
            r = server.post(CHAT, chat("Hi", max_tokens=1, qttt={"mode": "on", name: value}))
            e = error(r, 400)
            assert e["param"] and e["param"].startswith(f"qttt.{name}"), (name, value, e)
    for value in (True, 1, "on", []):
        e = error(server.post(CHAT, chat("Hi", max_tokens=1, qttt=value)), 400)
        assert e["param"] == "qttt"
    r = server.post(CHAT, chat("Hi", max_tokens=1, qttt={"no_such_field": 1}))
    assert r.status == 200 and r.headers["x-qttt-ignored-params"] == "qttt.no_such_field"


@pytest.mark.parametrize("qttt,status,param,code", [
    ({"generation": 3}, 404, "qttt.generation", "generation_unknown"), ({"generation": "x"}, 400, "qttt.generation", None),
    ({"mode": "on", "start_from": "latest"}, 400, "qttt.start_from", "unsupported_parameter"),
    ({"mode": "on", "generation": "base"}, 400, "qttt.generation", "unsupported_parameter")])
def test_what_needs_a_session_is_refused_without_one(server, qttt, status, param, code):
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    error(server.post(CHAT, chat("Hi", max_tokens=1, qttt=qttt)), status, kind, param=param, code=code)


def test_sgd_needs_a_learning_rate(server):
    e = error(server.post(CHAT, chat("Hi", max_tokens=1, qttt={"mode": "on", "optimizer": "sgd"})), 400)
    assert e["param"] == "qttt.learning_rate"


@pytest.mark.parametrize("messages", [
    None, [], {}, "hi", [None], ["hi"], [{}], [{"role": "nobody", "content": "x"}], [{"role": "user"}],
    [{"role": "user", "content": 7}], [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [7]}], [{"content": "x"}],
    [{"role": 7, "content": "x"}]])
def test_messages_that_are_refused(server, messages):
    e = error(server.post(CHAT, {"messages": messages, "max_tokens": 1}), 400)
    assert e["param"].startswith("messages")


def test_context_too_long_names_both_numbers(server):
    limit = server.get("/v1/models").json()["data"][0]["max_model_len"]
    e = error(server.post(CHAT, chat("a b c d " * limit, max_tokens=1)), 400, code="context_length_exceeded")
    assert str(limit) in e["message"] and sum(ch.isdigit() for ch in e["message"]) >= 8, e
    # max_tokens counts when it was given; without it the answer is bounded by what is left.
    e = error(server.post(CHAT, chat("Hi", max_tokens=limit)), 400, code="context_length_exceeded")
    assert str(limit) in e["message"]


def test_routes_and_methods(server):
    error(server.get("/nothing/here"), 404, "not_found_error")
    error(server.post("/v1/embeddings", {}), 404, "not_found_error")
    error(server.get("/"), 404, "not_found_error")
    error(server.get("/v1/models/none-such"), 404, "not_found_error", code="model_not_found")
    for path in spec.DOCUMENT["paths"]:
        there = {m.upper() for m in spec.DOCUMENT["paths"][path]}
        path = path.replace("{id}", "x")
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - there:
            r = server.request(method, path, b"{}" if method != "GET" else None)
            error(r, 405)
            assert {m.strip() for m in r.headers["allow"].split(",")} >= there
    # A query does not change the route.
    assert server.get("/v1/models?x=1").status == 200
    assert server.request("HEAD", "/livez").status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_content_types(server, path, kind):
    error(server.post(path, b"{}", headers={"Content-Type": kind}), 415)


def test_content_type_with_charset_is_json(server):
    body = json.dumps(BASE[CHAT]).encode()
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert server.post(CHAT, body, headers={"Content-Type": kind}).status == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_unknown_model(server, path):
    body = {**BASE.get(path, {}), "prompt": "x", "tokens": [1], "model": "none-such"}
    if path == CHAT:
        del body["prompt"], body["tokens"]
    error(server.post(path, body), 404, "not_found_error", code="model_not_found", param="model")


@pytest.mark.parametrize("tokens", [None, "x", [1.5], [-1], [10 ** 9], [[1]], ["1"], [True]])
def test_token_lists_that_are_refused(server, tokens):
    error(server.post("/detokenize", {"tokens": tokens}), 400)


def test_errors_of_a_stream_come_before_its_headers(server):
    r = server.post(CHAT, chat("Hi", stream=True, temperature=-1))
    error(r, 400, param="temperature")
    assert r.headers["content-type"].startswith("application/json")


def test_keys():
    """Every endpoint but probes and metrics wants a key once there are any."""
    with harness.Server(settings={"server": {"api_keys": ["sk-one", "sk-two"]}}) as s:
        for method, path in (("GET", "/v1/models"), ("GET", "/v1/models/x"), ("GET", "/tokenizer_info"), ("POST", CHAT),
                             ("POST", COMPLETIONS), ("POST", "/tokenize"), ("POST", "/detokenize")):
            for key in (None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer sk-on", "Bearer sk-one2", "Basic sk-one"):
                r = s.request(method, path, {} if method == "POST" else None, headers={"Authorization": key})
                error(r, 401, "authentication_error", code="invalid_api_key")
                assert r.headers["www-authenticate"].startswith("Bearer")
        for key in ("sk-one", "sk-two"):
            for scheme in ("Bearer", "bearer"):
                assert s.get("/v1/models", headers={"Authorization": f"{scheme} {key}"}).status == 200
        for path in ("/livez", "/readyz", "/health", "/metrics", "/startupz"):
            assert s.get(path).status == 200


def test_strict_refuses_unknown_names():
    with harness.Server(settings={"server": {"strict": True}}) as s:
        error(s.post(CHAT, {**BASE[CHAT], "no_such_parameter": 1}), 400, param="no_such_parameter")
        assert s.post(CHAT, {**BASE[CHAT], "user": "me"}).status == 200


def test_cors_preflight(server):
    wanted = ["authorization", "content-type", "x-stainless-lang", "x-stainless-retry-count", "x-request-id", "x-session-id",
              "idempotency-key", "traceparent"]
    r = server.request("OPTIONS", CHAT, headers={"Origin": "http://example.org", "Access-Control-Request-Method": "POST",
                                                 "Access-Control-Request-Headers": ",".join(wanted)})
    assert r.status in (200, 204)
    assert r.headers["access-control-allow-origin"] in ("*", "http://example.org")
    allowed = r.headers["access-control-allow-headers"].lower()
    assert "*" in allowed or not set(wanted) - {name.strip() for name in allowed.split(",")}
    assert "POST" in r.headers["access-control-allow-methods"]
    r = server.get("/v1/models", headers={"Origin": "http://example.org"})
    assert r.headers["access-control-allow-origin"] in ("*", "http://example.org")


def test_request_ids(server):
    assert server.get("/livez").headers["x-request-id"] != server.get("/livez").headers["x-request-id"]
    assert server.get("/livez", headers={"x-request-id": "My-Id_1"}).headers["x-request-id"] == "My-Id_1"
    for hostile in ("x" * 5000, "a\tb", "\x7f", "é"):
        r = server.get("/livez", headers={"x-request-id": hostile})
        assert r.headers["x-request-id"] != hostile


def test_session_headers_are_accepted_and_unused(server):
    for header in ("x-session-id", "X-OpenWebUI-Chat-Id", "Idempotency-Key", "traceparent"):
        r = server.post(CHAT, BASE[CHAT], headers={header: "value-1"})
        assert r.status == 200
