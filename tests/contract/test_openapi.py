"""The OpenAPI document agrees with the service, and is enough to use it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.parsing import SINGLES
from weightwell_engine.schemes import ALIASES, SCHEMES, Scheme
from weightwell_service.app import create_app
from weightwell_service.problems import PROBLEMS, REFUSALS
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    made: dict[str, Any] = http.get("/openapi.json").json()
    return made


def resolved(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of an operation, those that several operations share as well."""
    shared = document["components"]["parameters"]
    return [shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in operation["parameters"]]


def parameters(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the query parameters of GET /init by name."""
    found = resolved(document, document["paths"]["/init"]["get"])
    return {each["name"]: each for each in found if each["in"] == "query"}


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_every_scheme_and_dtype_can_be_requested(document: dict[str, Any]) -> None:
    assert parameters(document)["scheme"]["schema"]["enum"] == list(ALIASES)
    assert parameters(document)["dtype"]["schema"]["enum"] == list(DTYPES)


def test_every_field_is_a_query_parameter_with_a_description(document: dict[str, Any]) -> None:
    fields = {field for model in SINGLES.values() for field in model.model_fields}
    assert set(parameters(document)) == fields | {"manifest"}
    assert all(each["description"] for each in parameters(document).values())


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_scheme_has_a_body_with_its_own_parameters_and_no_other(document: dict[str, Any], scheme: Scheme) -> None:
    schema = document["components"]["schemas"][SINGLES[scheme.name].__name__]
    common = {"shape", "dtype", "seed", "slice", "stream", "name", "generator", "scheme"}
    assert set(schema["properties"]) == common | {parameter.name for parameter in scheme.parameters}
    assert schema["additionalProperties"] is False
    bodies = document["paths"]["/init"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert {"$ref": f"#/components/schemas/{SINGLES[scheme.name].__name__}"} in bodies


def test_a_property_of_many_models_is_described_once(http: httpx.Client, document: dict[str, Any]) -> None:
    """The document is as large as what it says: what several models or routes have is a reference in each."""
    schemas = document["components"]["schemas"]
    models = [SINGLES["uniform"], SINGLES["orthogonal"]]
    seeds = [schemas[model.__name__]["properties"]["seed"] for model in models]
    assert seeds == [{"$ref": "#/components/schemas/seed"}] * 2
    described = models[0].model_json_schema()["properties"]["seed"]
    assert schemas["seed"] == {name: value for name, value in described.items() if name != "title"}
    repeated = Counter(
        json.dumps(each)
        for schema in schemas.values()
        for each in schema.get("properties", {}).values()
        if "$ref" not in each and len(json.dumps(each)) > 100
    )
    titles = {name for name, count in repeated.items() if count > 2 and "title" not in name}
    assert titles == set()
    assert len(http.get("/openapi.json").content) < 300_000


def test_every_status_of_the_problem_table_is_in_the_document(document: dict[str, Any]) -> None:
    told = {int(status) for operation in document["paths"]["/init"].values() for status in operation["responses"]}
    assert {status for status, _, _ in PROBLEMS.values()} | REFUSALS.keys() <= told


@pytest.mark.parametrize(("name", "value"), [("seed", str(2**64 - 1)), ("shape", f"0,{2**63 - 1}"), ("slice", "0:9,:")])
def test_the_limits_of_a_field_are_in_the_document(document: dict[str, Any], name: str, value: str) -> None:
    assert OAS31Validator(parameters(document)[name]["schema"]).is_valid(value)


def filled_in(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, str]:
    """Return the query of an operation as Swagger UI fills it in: an example, or the first of several; not defaults."""
    found = {}
    for each in resolved(document, {"parameters": [], **operation}):
        examples = [example["value"] for example in each.get("examples", {}).values()]
        value = each.get("example", examples[0] if examples else None)
        if each["in"] == "query" and value not in (None, ""):
            found[each["name"]] = value
    return found


def test_every_get_works_with_what_swagger_fills_in(http: httpx.Client, document: dict[str, Any]) -> None:
    operations = {path: each["get"] for path, each in document["paths"].items() if "get" in each}
    assert filled_in(document, operations["/init"]) == {"shape": "512,784", "scheme": "kaiming_normal"}
    for path, operation in operations.items():
        response = http.get(path, params=filled_in(document, operation))
        assert response.status_code == 200, response.text


def test_the_example_of_a_manifest_works(http: httpx.Client, document: dict[str, Any]) -> None:
    manifest = parameters(document)["manifest"]["examples"]["a manifest"]["value"]
    for path in ("/init", "/plan"):
        assert http.get(path, params={"manifest": manifest}).status_code == 200


def test_the_examples_of_the_body_work(http: httpx.Client, document: dict[str, Any]) -> None:
    for path in ("/init", "/plan"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            schema = OAS31Validator({**content["schema"], "components": document["components"]})
            assert list(schema.iter_errors(example["value"])) == []
            assert http.post(path, json=example["value"]).status_code == 200


def test_the_rules_of_every_preset_are_rules_as_the_document_has_them(
    http: httpx.Client, document: dict[str, Any]
) -> None:
    rules = document["components"]["schemas"]["Manifest"]["properties"]["rules"]
    schema = OAS31Validator({**rules, "components": document["components"]})
    for preset in http.get("/presets").json()["presets"]:
        assert list(schema.iter_errors(preset["example"]["rules"])) == []


def test_the_document_can_be_read_in_a_browser(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


# The fuzzer ----------------------------------------------------------------------------------------------------------

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(serve: Serve) -> Iterator[Any]:
    """The document of a service with low limits, whose answers are small."""
    settings = Settings(threads=2, max_bytes=2**20, max_resident_bytes=2**20, max_signal_operations=10**8)
    app = create_app(settings)
    app.openapi()  # it takes a second, and schemathesis waits ten, which a busy machine may need
    with serve(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


OPERATIONS = {
    **{(method, "/init"): ("as described", "otherwise") for method in ("GET", "HEAD", "POST")},
    **{(method, "/plan"): ("as described", "otherwise") for method in ("GET", "POST")},
    **{(method, "/signal"): ("as described", "otherwise") for method in ("GET", "POST")},
    ("POST", "/inspect"): ("as described",),
    ("GET", "/gain"): ("as described", "otherwise"),
    **{
        ("GET", path): ("as described",)
        for path in ("/inspect", "/schemes", "/presets", "/health/live", "/health/ready")
    },
}
MODES = {"as described": GenerationMode.POSITIVE, "otherwise": GenerationMode.NEGATIVE}
# The examples are the same in each run. To negate the schema of a body takes 0.3 s.
EXAMPLES = {"as described": 20, "otherwise": 8}
ALL_EXAMPLES = {"as described": 50, "otherwise": 25}


@st.composite
def _generable(draw: st.DrawFn, cases: st.SearchStrategy[Any]) -> Any:
    """Draw a case, other than those that schemathesis begins to negate and then finds that it cannot."""
    try:
        return draw(cases)
    except UnsupportedSchema:
        return reject()


def test_every_operation_is_fuzzed(described: Any) -> None:
    operations = [operation.ok() for operation in described.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in operations} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"), [(*operation, mode) for operation, modes in OPERATIONS.items() for mode in modes]
)
def test_the_service_answers_as_the_document_says(
    described: Any, method: str, path: str, mode: str, *, exhaustive: bool
) -> None:
    @settings(
        max_examples=(ALL_EXAMPLES if exhaustive else EXAMPLES)[mode],
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_generable(described[path][method].as_strategy(generation_mode=MODES[mode])))
    def fuzz(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    fuzz()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Range": "bytes=0-9"}, 206),
        ({"If-None-Match": "*"}, 304),
        ({"If-Match": '"another"'}, 412),
        ({"Range": "bytes=99999-"}, 416),
    ],
)
def test_a_conditional_answer_is_as_the_document_says(described: Any, headers: dict[str, str], status: int) -> None:
    case = described["/init"]["GET"].Case(query={"shape": "3,5", "scheme": "he_normal"}, headers=headers)
    response = case.call()
    assert response.status_code == status
    case.validate_response(response, checks=CHECKS)
