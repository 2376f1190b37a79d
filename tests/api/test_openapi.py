"""openapi.yaml itself; that all of it is true is the business of every other test (spec.py, conftest.py)."""
import jsonschema
import yaml

import spec


def test_the_document_is_well_formed():
    """Valid schemas, no dangling reference, every operation with a name of its own."""
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
