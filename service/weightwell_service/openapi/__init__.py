"""The OpenAPI document, for routes that FastAPI cannot describe: they parse their own queries and return files.

All descriptions are derived from the models that parse requests, so they cannot contradict them.

    requests    query parameters, headers and bodies; the models of all requests
    responses   files and problems

This module has the texts of each route, and makes the document. JSON answers are not here: FastAPI describes them by
the models of the routes.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from weightwell_service.openapi.requests import (
    CONDITIONS,
    Schema,
    body,
    body_of_signal,
    components,
    query_of_gain,
    query_of_init,
    query_of_signal,
)
from weightwell_service.openapi.responses import FILE, FILE_HEADERS, NOT_MODIFIED, RANGED, REFUSALS, problem

DESCRIPTION = """\
Generates the initial weights of neural networks and serves them as
[safetensors](https://github.com/huggingface/safetensors) files. A response is a *virtual file*: it is not stored, and
has a length, an `ETag` and byte ranges. The same request always gives the same bytes.
"""

_FILE: dict[str, Any] = {"tags": ["weights"], "response_class": Response}
_BAD_BODY = {400: problem("the body is not JSON"), 415: problem("the body is compressed")}

INIT_GET: dict[str, Any] = {
    **_FILE,
    "operation_id": "init",
    "summary": "Draw one tensor, or a manifest of many",
    "responses": {200: FILE, **RANGED, **NOT_MODIFIED, **REFUSALS},
    "openapi_extra": {"parameters": CONDITIONS},
}
INIT_HEAD: dict[str, Any] = {
    **_FILE,
    "operation_id": "init_head",
    "summary": "Get the headers of the file",
    "responses": {
        200: {"description": "the headers of the answer to GET", "headers": FILE_HEADERS},
        **NOT_MODIFIED,
        **{status: {"description": refusal["description"]} for status, refusal in REFUSALS.items()},
    },
    "openapi_extra": {"parameters": CONDITIONS[2:]},
}
INIT_POST: dict[str, Any] = {
    **_FILE,
    "operation_id": "init_from_body",
    "summary": "Draw one tensor or many",
    "responses": {200: FILE, **REFUSALS, **_BAD_BODY},
    "openapi_extra": {"requestBody": body(), "parameters": CONDITIONS[3:]},
}
_PLAN_REFUSALS: dict[int | str, Schema] = {status: REFUSALS[status] for status in (401, 403, 413, 422, 429, 500, 503)}
PLAN_GET: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "plan",
    "summary": "Describe the file of the same query",
    "responses": _PLAN_REFUSALS,
}
PLAN_POST: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "plan_from_body",
    "summary": "Describe the file of the same body",
    "responses": {**_PLAN_REFUSALS, **_BAD_BODY},
    "openapi_extra": {"requestBody": body()},
}
INSPECT_GET: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "inspect",
    "summary": "Statistics of the tensor of a query",
    "responses": _PLAN_REFUSALS,
}
INSPECT_POST: dict[str, Any] = {
    "tags": ["weights"],
    "operation_id": "inspect_body",
    "summary": "Statistics of the tensor of a body",
    "responses": {**_PLAN_REFUSALS, **_BAD_BODY},
    "openapi_extra": {"requestBody": body()},
}
GAIN: dict[str, Any] = {
    "tags": ["gains"],
    "operation_id": "gain",
    "summary": "The gain of a nonlinearity",
    "responses": {422: REFUSALS[422]},
    "openapi_extra": {"parameters": query_of_gain()},
}
_SIGNAL: dict[str, Any] = {"tags": ["signals"]}
SIGNAL_GET: dict[str, Any] = {
    **_SIGNAL,
    "operation_id": "signal",
    "summary": "A signal and its gradient through a stack of equal layers",
    "responses": _PLAN_REFUSALS,
    "openapi_extra": {"parameters": query_of_signal()},
}
SIGNAL_POST: dict[str, Any] = {
    **_SIGNAL,
    "operation_id": "signal_from_body",
    "summary": "A signal and its gradient through any layers",
    "responses": {**_PLAN_REFUSALS, **_BAD_BODY},
    "openapi_extra": {"requestBody": body_of_signal()},
}
CATALOGUE: dict[str, Any] = {"tags": ["weights"], "operation_id": "schemes", "summary": "The catalogue"}
PRESETS: dict[str, Any] = {"tags": ["weights"], "operation_id": "presets", "summary": "Rules by name"}
LIVE: dict[str, Any] = {"tags": ["health"], "operation_id": "live", "summary": "Whether the process runs"}
READY: dict[str, Any] = {"tags": ["health"], "operation_id": "ready", "summary": "Whether requests are served"}


def document(app: FastAPI) -> Callable[[], Schema]:
    """Return a function that makes an application's OpenAPI document at its first call, and caches it."""

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
            query, paths = query_of_init(), made["paths"]
            made["components"]["parameters"] = query
            references = [{"$ref": f"#/components/parameters/{name}"} for name in query]
            operations = [paths[path]["get"] for path in ("/init", "/plan", "/inspect")]
            for operation in [*operations, paths["/init"]["head"]]:
                operation["parameters"] = references + operation.get("parameters", [])
            app.openapi_schema = made
        return app.openapi_schema

    return openapi
