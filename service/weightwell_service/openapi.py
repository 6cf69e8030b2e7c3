"""The OpenAPI document: what FastAPI cannot know of routes that read their own queries and answer with files.

All of it is derived from the models in ``wire``, so it cannot say what they do not.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from weightwell_service.schemes import ALIASES
from weightwell_service.wire import ENTRIES, SINGLES, GainQuery, Manifest

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
  curl -s '{url}/schemes'

Everything else: {url}/docs
"""

Schema = dict[str, Any]

_REF = "#/components/schemas/{model}"


def hello(url: str) -> str:
    """Return what the bare address answers."""
    return _HELLO.format(url=url)


# Responses -----------------------------------------------------------------------------------------------------------


def _header(description: str, **schema: Any) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


_FILE_HEADERS = {
    "ETag": _header("strong validator: the same tag is the same bytes", pattern='^"[0-9a-f]{32}"$'),
    "Accept-Ranges": _header("ranges of bytes can be asked for", enum=["bytes"]),
    "Cache-Control": _header("immutable where the generator is portable; otherwise to be revalidated"),
    "Weightwell-Generator": _header("the generator, its version, and what else the numbers depend on"),
}
_CONTENT_RANGE = {"Content-Range": _header("which bytes of how many", pattern=r"^bytes (\d+-\d+|\*)/\d+$")}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}


def _problem(description: str, **headers: Schema) -> Schema:
    return {"description": description, "content": _PROBLEM, **({"headers": headers} if headers else {})}


_RETRY = {"Retry-After": _header("seconds to wait")}
_FILE = {"description": "the safetensors file", "content": _BINARY, "headers": _FILE_HEADERS}
_REFUSALS: dict[int | str, Schema] = {
    412: _problem("If-Match names another file", ETag=_FILE_HEADERS["ETag"]),
    413: _problem("larger than this server allows"),
    422: _problem("a field has a value that it cannot have; `errors` names every such field"),
    503: _problem("busy, or the device is lost", **_RETRY),
}
_NOT_MODIFIED: dict[int | str, Schema] = {
    304: {"description": "If-None-Match names this file", "headers": _FILE_HEADERS},
}
_RANGED: dict[int | str, Schema] = {
    206: {**_FILE, "description": "the wanted bytes of it", "headers": _FILE_HEADERS | _CONTENT_RANGE},
    416: _problem("the range holds no byte of the file", **_CONTENT_RANGE),
}

_PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "What is wrong, as RFC 9457 has it.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "a URN that names the kind of problem, or about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what was got, what is allowed, what to do"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "got", "expected", "detail"],
                "properties": {
                    "field": {"type": "string"},
                    "got": {"description": "the offending value, shortened where it is long"},
                    "expected": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


# Requests ------------------------------------------------------------------------------------------------------------


def _init_parameters() -> list[Schema]:
    """Describe the fields of every scheme's model as one flat set of query parameters."""
    found: dict[str, dict[str, Schema]] = {"shape": {}, "scheme": {}}
    for name, model in SINGLES.items():
        for field, schema in model.model_json_schema()["properties"].items():
            found.setdefault(field, {})[name] = _flat(schema)
    return [_SHAPE, _SCHEME] + [
        _parameter(field, schemas) for field, schemas in found.items() if field not in ("shape", "scheme")
    ]


def _parameter(field: str, schemas: dict[str, Schema]) -> Schema:
    """Describe a query parameter, given what it is for each of the schemes that have it."""
    users: dict[str, list[str]] = {}
    for name, schema in schemas.items():
        users.setdefault(schema.pop("description"), []).append(name)
    named = len(users) > 1 or schemas.keys() < SINGLES.keys()
    texts = [f"{text} ({', '.join(names)})" if named else text for text, names in users.items()]
    examples = [example for schema in schemas.values() for example in schema.pop("examples", [])]
    unique = [schema for at, schema in enumerate(schemas.values()) if schema not in list(schemas.values())[:at]]
    return {
        "name": field,
        "in": "query",
        "required": False,
        "description": "; ".join(texts),
        "schema": unique[0] if len(unique) == 1 else {"anyOf": unique},
        **({"example": examples[0]} if examples else {}),
    }


_SHAPE: Schema = {
    "name": "shape",
    "in": "query",
    "required": True,
    "description": "sizes of the whole tensor, separated by commas; empty for a scalar",
    "schema": {"type": "string", "pattern": "^([0-9]{1,19}(,[0-9]{1,19})*)?$"},
    "example": "512,784",
}
_SCHEME: Schema = {
    "name": "scheme",
    "in": "query",
    "required": True,
    "description": "how the tensor is initialized; `/schemes` says what each one is",
    "schema": {"type": "string", "enum": list(ALIASES)},
    "example": "kaiming_normal",
}


def _flat(schema: Schema) -> Schema:
    """Return a property's schema without its title, its default and its null, none of which a query can say."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "default")}
    alternatives = [each for each in kept.pop("anyOf", []) if each != {"type": "null"}]
    return kept | (alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives} if alternatives else {})


_CONDITIONS: list[Schema] = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in {
        "Range": "one range of bytes, such as `bytes=0-1023`",
        "If-Range": "honour Range only if the file still has this ETag",
        "If-None-Match": "answer 304 if the file has this ETag",
        "If-Match": "answer 412 unless the file has this ETag",
    }.items()
]

_TENSOR = {"shape": [512, 784], "scheme": "kaiming_normal", "seed": 42}
_MANIFEST = {
    "seed": 42,
    "dtype": "bfloat16",
    "tensors": {
        "fc1.weight": {"shape": [512, 784], "scheme": "kaiming_uniform", "a": 2.23606797749979},
        "fc1.bias": {"shape": [512], "scheme": "zeros"},
        "fc2.weight": {"shape": [10, 512], "scheme": "xavier_normal", "dtype": "float32"},
    },
}


def _body() -> Schema:
    # anyOf, not oneOf: schemes are told apart by their names, and the document says so in each model.
    models = [model.__name__ for model in SINGLES.values()] + [Manifest.__name__]
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [{"$ref": _REF.format(model=name)} for name in models]},
                "examples": {
                    "one tensor": {"value": _TENSOR},
                    "many tensors": {"value": _MANIFEST},
                },
            }
        },
    }


# Routes --------------------------------------------------------------------------------------------------------------

_INIT: dict[str, Any] = {"tags": ["weights"], "response_class": Response}

INIT_GET: dict[str, Any] = {
    **_INIT,
    "operation_id": "init",
    "summary": "Draw one tensor",
    "responses": {200: _FILE, **_RANGED, **_NOT_MODIFIED, **_REFUSALS},
    "openapi_extra": {"parameters": _init_parameters() + _CONDITIONS},
}
INIT_HEAD: dict[str, Any] = {
    **_INIT,
    "operation_id": "init_head",
    "summary": "Ask about the file of one tensor",
    "responses": {
        200: {"description": "what GET would say of the file", "headers": _FILE_HEADERS},
        **_NOT_MODIFIED,
        **{status: {"description": refusal["description"]} for status, refusal in _REFUSALS.items()},
    },
    "openapi_extra": {"parameters": _init_parameters() + _CONDITIONS[2:]},
}
INIT_POST: dict[str, Any] = {
    **_INIT,
    "operation_id": "init_from_body",
    "summary": "Draw one tensor or many",
    "responses": {200: _FILE, **_REFUSALS, 400: _problem("the body is not JSON")},
    "openapi_extra": {"requestBody": _body(), "parameters": _CONDITIONS[3:]},
}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}

GAIN: dict[str, Any] = {
    "tags": ["gains"],
    "operation_id": "gain",
    "summary": "The gain of a nonlinearity",
    "response_class": Response,
    "responses": {
        200: _json(
            "the gain, or the table",
            {
                "anyOf": [
                    _object(source=_TEXT, nonlinearity=_TEXT, gain=_NUMBER),
                    _object(source=_TEXT, gains={"type": "object", "additionalProperties": _object(gain=_NUMBER)}),
                ]
            },
        ),
        422: _REFUSALS[422],
    },
    "openapi_extra": {
        "parameters": [
            _parameter(field, {"gain": _flat(schema)})
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
    "responses": {200: _json("every scheme, dtype and generator", _object(**_LISTS))},
}
LIVE: dict[str, Any] = {
    "tags": ["health"],
    "operation_id": "live",
    "summary": "Whether the process runs",
    "response_class": Response,
    "responses": {200: _json("the process runs", _object(status=_TEXT))},
}
_READINESS = _object(status=_TEXT, version=_TEXT, device=_TEXT, generators={"type": "object"})
READY: dict[str, Any] = {
    "tags": ["health"],
    "operation_id": "ready",
    "summary": "Whether requests are served",
    "response_class": Response,
    "responses": {200: _json("requests are served", _READINESS), 503: _json("not yet, or no longer", _READINESS)},
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
            made.setdefault("components", {}).setdefault("schemas", {}).update(_components())
            app.openapi_schema = made
        return app.openapi_schema

    return openapi


def _components() -> Schema:
    models: list[type[BaseModel]] = [*SINGLES.values(), *ENTRIES.values(), Manifest]
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    components: Schema = {**made["$defs"], "Problem": _PROBLEM_SCHEMA}
    entries = [{"$ref": _REF.format(model=model.__name__)} for model in ENTRIES.values()]
    components[Manifest.__name__]["properties"]["tensors"]["additionalProperties"] = {"anyOf": entries}
    return components
