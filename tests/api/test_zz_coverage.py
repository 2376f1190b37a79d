"""Runs last: every path and status of openapi.yaml was seen by some test of this run."""
import pytest
import yaml

import spec

# A failure of the server itself is provoked by test_faults.py alone, which looks at the answers itself; /livez says no
# only when the engine hangs, which test_service.py can only do where a child may be traced.
NOT_PROVOKED = {row for row in spec.documented() if row[2] == 500} | {("/livez", "get", 503)}


def test_every_documented_status_was_seen(request):
    if len({item.fspath.basename for item in request.session.items}) < 8:
        pytest.skip("only part of the tests runs, so nothing can be said about the whole")
    missing = set(spec.documented()) - spec.SEEN - NOT_PROVOKED
    assert not missing, sorted(missing)


def test_the_document_is_well_formed():
    """Valid schemas, no dangling reference, every operation with a name of its own."""
    import jsonschema
    document = spec.DOCUMENT
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert name[0].isupper()
    text = yaml.safe_dump(document)
    for line in text.splitlines():
        if "$ref:" in line:
            spec.resolve({"$ref": line.split("$ref:")[1].strip().strip("'\"")})
    names = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in document["paths"].items():
        for op in methods.values():
            assert op["responses"], path
            if "{" in path:
                names = [p["name"] for p in map(spec.resolve, op["parameters"]) if p["in"] == "path"]
                assert names == [path.split("{")[1].split("}")[0]]
