"""Schemas: the words in which JSON Schema says things, and the models of requests and problems in them."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from weightwell_engine.parsing import ENTRIES, RULES, SINGLES, Alias, Entry, Manifest

Schema = dict[str, Any]

REF = "#/components/schemas/{model}"

TEXT, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
INTEGERS = {"type": "array", "items": INTEGER}


def an_object(**properties: Schema) -> Schema:
    """Describe an object that has all of these properties, and perhaps others."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def optional(schema: Schema) -> Schema:
    """Describe what may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def any_of(models: Iterable[type[BaseModel]]) -> Schema:
    """Describe what fits one of some models of ``components``."""
    # anyOf, not oneOf: schemes are told apart by their names, and the document says so in each model.
    return {"anyOf": [{"$ref": REF.format(model=model.__name__)} for model in models]}


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


def components() -> Schema:
    """Return the models of all requests, and of a problem, by name."""
    models: list[type[BaseModel]] = [*SINGLES.values(), *ENTRIES.values(), *RULES.values(), Entry, Alias, Manifest]
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    named: Schema = {**made["$defs"], "Problem": _PROBLEM_SCHEMA}
    properties = named[Manifest.__name__]["properties"]
    properties["tensors"]["additionalProperties"] = any_of([*ENTRIES.values(), Entry, Alias])
    properties["rules"]["items"] = any_of(RULES.values())
    return named
