"""The OpenAPI document: what FastAPI cannot know of routes that read their own queries and answer with files.

All of it is derived from the models in ``wire``, so it cannot say what they do not.

    schemas     the words of JSON Schema, and the models
    requests    query parameters, headers and bodies
    responses   files, refusals and JSON

and here the routes, and the document itself.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from weightwell_service.openapi.requests import CONDITIONS, body, flat, query_of, query_of_init
from weightwell_service.openapi.responses import (
    FILE,
    FILE_HEADERS,
    NOT_MODIFIED,
    OUTLINE,
    PRESET,
    RANGED,
    REFUSALS,
    json_of,
    problem,
)
from weightwell_service.openapi.schemas import NUMBER, TEXT, Schema, an_object, components
from weightwell_service.queries import GainQuery

DESCRIPTION = """\
Draws the initial weights of neural networks and serves them as
[safetensors](https://github.com/huggingface/safetensors) files. A response is a *virtual file*: it is stored nowhere,
but it has a length, an `ETag` and byte ranges, and the same request always gives the same bytes.

    curl -s 'http://127.0.0.1:8000/init?shape=512,784&scheme=kaiming_normal&seed=42' -o weight.safetensors
"""

_HELLO = """\
Weightwell draws initialized weights and serves them as safetensors files.

  curl -s '{url}/init?shape=512,784&scheme=kaiming_normal&seed=42' -o weight.safetensors
  curl -s '{url}/gain?nonlinearity=leaky_relu&param=0.2'
  curl -s '{url}/plan?shape=512,784&scheme=kaiming_normal&seed=42'
  curl -s '{url}/schemes'
  curl -s '{url}/presets'

Everything else: {url}/docs
"""


def hello(url: str) -> str:
    """Return what the bare address answers."""
    return _HELLO.format(url=url)


# Routes --------------------------------------------------------------------------------------------------------------

_WEIGHTS: dict[str, Any] = {"tags": ["weights"], "response_class": Response}

INIT_GET: dict[str, Any] = {
    **_WEIGHTS,
    "operation_id": "init",
    "summary": "Draw one tensor, or a manifest of many",
    "responses": {200: FILE, **RANGED, **NOT_MODIFIED, **REFUSALS},
    "openapi_extra": {"parameters": query_of_init() + CONDITIONS},
}
INIT_HEAD: dict[str, Any] = {
    **_WEIGHTS,
    "operation_id": "init_head",
    "summary": "Ask about the file",
    "responses": {
        200: {"description": "what GET would say of the file", "headers": FILE_HEADERS},
        **NOT_MODIFIED,
        **{status: {"description": refusal["description"]} for status, refusal in REFUSALS.items()},
    },
    "openapi_extra": {"parameters": query_of_init() + CONDITIONS[2:]},
}
INIT_POST: dict[str, Any] = {
    **_WEIGHTS,
    "operation_id": "init_from_body",
    "summary": "Draw one tensor or many",
    "responses": {200: FILE, **REFUSALS, 400: problem("the body is not JSON")},
    "openapi_extra": {"requestBody": body(), "parameters": CONDITIONS[3:]},
}
_PLANNED: dict[int | str, Schema] = {
    200: json_of("what the file holds", OUTLINE),
    **{status: REFUSALS[status] for status in (413, 422, 503)},
}
PLAN_GET: dict[str, Any] = {
    **_WEIGHTS,
    "operation_id": "plan",
    "summary": "What the file of the same query holds",
    "responses": _PLANNED,
    "openapi_extra": {"parameters": query_of_init()},
}
PLAN_POST: dict[str, Any] = {
    **_WEIGHTS,
    "operation_id": "plan_from_body",
    "summary": "What the file of the same body holds",
    "responses": {**_PLANNED, 400: INIT_POST["responses"][400]},
    "openapi_extra": {"requestBody": body()},
}

GAIN: dict[str, Any] = {
    "tags": ["gains"],
    "operation_id": "gain",
    "summary": "The gain of a nonlinearity",
    "response_class": Response,
    "responses": {
        200: json_of(
            "the gain, or the table",
            {
                "anyOf": [
                    an_object(source=TEXT, nonlinearity=TEXT, gain=NUMBER),
                    an_object(source=TEXT, gains={"type": "object", "additionalProperties": an_object(gain=NUMBER)}),
                ]
            },
        ),
        422: REFUSALS[422],
    },
    "openapi_extra": {
        "parameters": [
            query_of(field, {"gain": flat(schema)})
            for field, schema in GainQuery.model_json_schema()["properties"].items()
        ]
    },
}
_LISTS = {name: {"type": "array", "items": {"type": "object"}} for name in ("schemes", "dtypes", "generators")}
CATALOGUE: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "schemes",
    "summary": "The catalogue",
    "response_class": Response,
    "responses": {200: json_of("every scheme, dtype and generator", an_object(**_LISTS))},
}
PRESETS: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "presets",
    "summary": "Rules by name",
    "response_class": Response,
    "responses": {200: json_of("every preset", an_object(presets={"type": "array", "items": PRESET}))},
}
LIVE: dict[str, Any] = {
    "tags": ["health"],
    "operation_id": "live",
    "summary": "Whether the process runs",
    "response_class": Response,
    "responses": {200: json_of("the process runs", an_object(status=TEXT))},
}
_READINESS = {"status": TEXT, "version": TEXT, "device": TEXT, "generators": {"type": "object"}}
READY: dict[str, Any] = {
    "tags": ["health"],
    "operation_id": "ready",
    "summary": "Whether requests are served",
    "response_class": Response,
    "responses": {
        200: json_of("requests are served", an_object(**_READINESS)),
        503: json_of("not yet, or no longer", an_object(**_READINESS, reason=TEXT)),
    },
}


def document(app: FastAPI) -> Callable[[], Schema]:
    """Return the function that makes an application's OpenAPI document, once."""

    def openapi() -> Schema:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                license_info=app.license_info,
            )
            made.setdefault("components", {}).setdefault("schemas", {}).update(components())
            app.openapi_schema = made
        return app.openapi_schema

    return openapi
