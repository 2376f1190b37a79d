"""openapi.yaml as a judge: every answer that a test reads is checked against it, and what was checked is counted."""
import json
import pathlib
import re

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text())
SEEN = set()  # (path, method, status) of answers that were checked
_validators = {}


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        target = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def _locate(path):
    """The path template of a request path, without its query."""
    path = path.split("?")[0]
    for template in DOCUMENT["paths"]:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return template
    return None


def validate(schema, value, where):
    key = json.dumps(schema, sort_keys=True)
    if key not in _validators:
        # The schema and the document's components in one, so that its references resolve.
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"],
                 "allOf": [schema]}
        _validators[key] = jsonschema.Draft202012Validator(whole)
    errors = list(_validators[key].iter_errors(value))
    if errors:
        e = jsonschema.exceptions.best_match(errors)
        at = "/".join(str(p) for p in e.absolute_path)
        raise AssertionError(f"{where}: {at or 'body'}: {e.message[:400]}\n{json.dumps(value)[:800]}")


def component(name):
    return {"$ref": f"#/components/schemas/{name}"}


def check(method, path, response):
    """Asserts that this answer is one that openapi.yaml allows. response: status, headers (lower case), body."""
    template = _locate(path)
    where = f"{method} {path} {response.status}"
    methods = DOCUMENT["paths"].get(template, {})
    operation = methods.get(method.lower())
    if operation is None:
        if method in ("HEAD", "OPTIONS") and response.status in (200, 204):
            return
        # An unknown route, or a method that the route does not have: any error answer with the common body.
        assert response.status in (400, 401, 404, 405, 413, 415, 503), where
        if method != "HEAD":
            validate(component("Error"), json.loads(response.body), where)
        if response.status == 405:
            assert "allow" in response.headers, where
            SEEN.update((template, m, 405) for m in methods)
        return
    described = resolve(operation["responses"].get(str(response.status)))
    assert described is not None, f"{where}: a status that openapi.yaml does not list\n{response.body[:300]!r}"
    SEEN.add((template, method.lower(), response.status))
    for name, header in described.get("headers", {}).items():
        header, value = resolve(header), response.headers.get(name.lower())
        assert value is not None or not header.get("required"), f"{where}: no header {name}"
        if value is not None:
            validate(header["schema"], value, f"{where} header {name}")
    media = response.headers.get("content-type", "").split(";")[0].strip()
    content = described.get("content", {})
    assert media in content, f"{where}: Content-Type {media!r}, openapi.yaml has {list(content)}"
    if media == "application/json":
        validate(content[media]["schema"], json.loads(response.body), where)
    elif media == "text/event-stream":
        from harness import parse_events
        for event in parse_events(response.body):
            check_event(template, event, where)


def check_event(template, event, where):
    """One parsed event of a stream."""
    if event is None or event == "[DONE]":
        return
    if "error" in event:
        validate(component("Error"), event, where)
    else:
        media = DOCUMENT["paths"][template]["get" if template.endswith("/events") else "post"]["responses"]["200"]["content"]
        validate(media["text/event-stream"]["schema"], event, where)


def parameters(path):
    return DOCUMENT["paths"][path]["post"]["x-qttt-parameters"]


def documented():
    """Every (path, method, status) that the document promises."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            for status in operation["responses"]:
                yield path, method, int(status)
