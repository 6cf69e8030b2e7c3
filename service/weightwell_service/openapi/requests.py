"""OpenAPI descriptions of query parameters, headers and bodies, derived from the models that parse them."""

import json
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from weightwell_engine.parsing import (
    ENTRIES,
    EQUAL_LAYERS,
    LAYER_ENTRIES,
    PARTS,
    RULES,
    SINGLES,
    Alias,
    Entry,
    GainQuery,
    LayerList,
    Manifest,
)
from weightwell_engine.schemes import ALIASES
from weightwell_service.links import MAX_URL, pack
from weightwell_service.problems import Problem

Schema = dict[str, Any]

REF = "#/components/schemas/{model}"


def query_of_init() -> dict[str, Schema]:
    """Describe the fields of every scheme's model as one flat set of query parameters, by name."""
    found: dict[str, dict[str, Schema]] = {"shape": {}, "scheme": {}}
    for name, model in SINGLES.items():
        for field, schema in model.model_json_schema()["properties"].items():
            found.setdefault(field, {})[name] = flat(schema)
    others = [query_of(field, schemas) for field, schemas in found.items() if field not in ("shape", "scheme")]
    return {each["name"]: each for each in (_SHAPE, _SCHEME, _LINKED, *others)}


def query_of_gain() -> list[Schema]:
    """Describe the query of ``/gain``."""
    properties = GainQuery.model_json_schema()["properties"].items()
    return [query_of(field, {"gain": flat(schema)}) for field, schema in properties]


def query_of_signal() -> list[Schema]:
    """Describe the query of ``/signal``: the fields of a stack, and the parameters of all schemes."""
    found: dict[str, dict[str, Schema]] = {"scheme": {}}
    for name, model in EQUAL_LAYERS.items():
        for field, schema in model.model_json_schema()["properties"].items():
            found.setdefault(field, {})[name] = flat(schema)
    del found["scheme"]
    scheme = {**_SCHEME, "description": "the scheme of the weights; kaiming_normal by default"}
    scheme["schema"] = {"type": "string", "enum": [name for name in ALIASES if ALIASES[name] in EQUAL_LAYERS]}
    return [scheme, *(query_of(field, schemas, EQUAL_LAYERS) for field, schemas in found.items())]


def query_of(field: str, schemas: dict[str, Schema], models: Collection[str] = SINGLES) -> Schema:
    """Describe a query parameter, given its description for each scheme that has it, of the schemes of ``models``."""
    users: dict[str, list[str]] = {}
    for name, schema in schemas.items():
        users.setdefault(schema.pop("description"), []).append(name)
    named = len(users) > 1 or len(schemas) < len(models)
    texts = [f"{text} ({', '.join(names)})" if named else text for text, names in users.items()]
    for schema in schemas.values():
        schema.pop("examples", None)  # Swagger UI would send the defaults, and some fields exclude each other
    unique = [schema for at, schema in enumerate(schemas.values()) if schema not in list(schemas.values())[:at]]
    return {
        "name": field,
        "in": "query",
        "required": False,
        "description": "; ".join(texts),
        "schema": unique[0] if len(unique) == 1 else {"anyOf": unique},
    }


_SHAPE: Schema = {
    "name": "shape",
    "in": "query",
    "required": False,
    "description": "sizes of the whole tensor, separated by commas, empty for a scalar; required without a manifest",
    "schema": {"type": "string", "pattern": "^([0-9]{1,19}(,[0-9]{1,19})*)?$"},
    "example": "512,784",
}
_SCHEME: Schema = {
    "name": "scheme",
    "in": "query",
    "required": False,
    "description": "the initialization scheme; `/schemes` describes all; required without a manifest",
    "schema": {"type": "string", "enum": list(ALIASES)},
    "example": "kaiming_normal",
}


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
_MANIFEST_OF_RULES = {
    "seed": 42,
    "rules": [
        {"match": "*.bias", "scheme": "zeros"},
        {"module": "Linear", "scheme": "xavier_uniform"},
    ],
    "preset": "torch",
    "tensors": {
        "embed.weight": {"shape": [1000, 64], "module": "Embedding"},
        "fc.weight": {"shape": [256, 64], "module": "Linear", "slice": "0:128,:"},
        "fc.bias": {"shape": [256], "module": "Linear"},
        "norm.num_batches_tracked": {"shape": [], "module": "BatchNorm1d"},
        "head.weight": {"alias": "embed.weight"},
    },
}
_LINKED: Schema = {
    "name": "manifest",
    "in": "query",
    "required": False,
    "description": "instead of all other fields: the JSON body of a POST, compressed with zlib, in base64url; "
    f"`/plan` makes it. Proxies and servers need not accept URLs of more than {MAX_URL} characters",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]*={0,2}$"},
    "examples": {
        "none": {"value": "", "summary": "one tensor: leave this empty"},
        "a manifest": {"value": pack(json.dumps(_MANIFEST_OF_RULES)), "summary": "then leave all other fields empty"},
    },
}


def flat(schema: Schema) -> Schema:
    """Return a property's schema for a query, without title, default and null.

    A list in a query is text with items separated by commas.
    """
    kept = {key: value for key, value in schema.items() if key not in ("title", "default")}
    alternatives = [each for each in kept.pop("anyOf", []) if each != {"type": "null"}]
    lists = [each for each in (kept, *alternatives) if each.get("type") == "array"]
    if lists:
        items = lists[0]["items"]
        kind = items.get("type")
        text = _SEEDS if kind is None else _NUMBERS if kind == "number" else _SIZES if items["minimum"] == 0 else _AXES
        return {key: kept[key] for key in kept if key in _ABOUT} | text
    return kept | (alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives} if alternatives else {})


_AXES: Schema = {"type": "string", "pattern": "^(-?[0-9]{1,2}(,-?[0-9]{1,2})*)?$"}
_SIZES: Schema = {"type": "string", "pattern": "^([0-9]{1,18}(,[0-9]{1,18})*)?$"}
_SEEDS: Schema = {"type": "string", "pattern": "^[0-9]{1,20}(,[0-9]{1,20})*$"}
_NUMBERS: Schema = {"type": "string", "pattern": "^[-+0-9.eE]+(,[-+0-9.eE]+)*$"}
_ABOUT = {"description", "examples"}

CONDITIONS: list[Schema] = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in {
        "Range": "one range of bytes, such as `bytes=0-1023`",
        "If-Range": "honour Range only if the file still has this ETag",
        "If-None-Match": "answer 304 if the file has this ETag",
        "If-Match": "answer 412 unless the file has this ETag",
    }.items()
]


def body() -> Schema:
    """Describe the JSON body of a POST."""
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": any_of([*SINGLES.values(), Manifest]),
                "examples": {
                    "one tensor": {"value": _TENSOR},
                    "many tensors": {"value": _MANIFEST},
                    "many tensors by rules": {"value": _MANIFEST_OF_RULES},
                },
            }
        },
    }


_LAYERS = {
    "layers": [
        {"kind": "conv2d", "width": 32, "padding": "circular"},
        {"kind": "conv2d", "width": 64, "stride": 2, "padding": "circular"},
        {"width": 256, "activation": "tanh", "scheme": "xavier_normal", "repeat": 3},
        {"width": 10, "activation": "linear"},
    ],
    "input_width": 3,
    "seeds": [0, 1],
}


def body_of_signal() -> Schema:
    """Describe the JSON body of a POST to ``/signal``."""
    schema = any_of([LayerList, *EQUAL_LAYERS.values()])
    examples = {"a list of layers": {"value": _LAYERS}, "equal layers": {"value": {"depth": 20, "width": 128}}}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


def any_of(models: Iterable[type[BaseModel]]) -> Schema:
    """Describe a value that matches one of several models in ``components``."""
    # anyOf, not oneOf: each model has the names of its scheme, so only one model matches.
    return {"anyOf": [{"$ref": REF.format(model=model.__name__)} for model in models]}


def components() -> Schema:
    """Return the models of all requests, and of a problem, by name."""
    models: list[type[BaseModel]] = [*SINGLES.values(), *ENTRIES.values(), *RULES.values(), *PARTS.values()]
    models += [Entry, Alias, Manifest, Problem, LayerList, *EQUAL_LAYERS.values(), *LAYER_ENTRIES.values()]
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    named: Schema = made["$defs"]
    properties = named[Manifest.__name__]["properties"]
    properties["tensors"]["additionalProperties"] = any_of([*ENTRIES.values(), Entry, Alias])
    properties["rules"]["items"] = any_of(RULES.values())
    named[LayerList.__name__]["properties"]["layers"]["items"] = any_of(LAYER_ENTRIES.values())
    for model in (*EQUAL_LAYERS.values(), *LAYER_ENTRIES.values()):
        named[model.__name__]["required"] = [each for each in named[model.__name__]["required"] if each != "scheme"]
    entries: list[type[BaseModel]] = [*ENTRIES.values(), Entry]
    for entry in entries:
        parts, _ = named[entry.__name__]["properties"]["parts"]["anyOf"]
        parts["items"] = any_of(PARTS.values())
    return named | _shared([schema["properties"] for schema in named.values() if "properties" in schema])


# Properties whose JSON is shorter than this stay where they are: a reference is not shorter.
_SHORT = 60


def _shared(models: list[Schema]) -> Schema:
    """Replace properties that several models have by references, in place; return the schemas that they refer to.

    The models have 2,400 properties, of which 127 are different: without references, the document is more than twice as
    large. A shared schema has the name of its property, or NAME.2, NAME.3, ... if properties of this name differ, and
    ``scheme.SCHEME`` for the names of a scheme.
    """
    uses: Counter[str] = Counter()
    for properties in models:
        for name, schema in properties.items():
            schema.pop("title", None)  # pydantic's, which is the name once more
            uses[_key(name, schema)] += 1
    shared: Schema = {}
    references: dict[str, Schema] = {}
    variants: Counter[str] = Counter()
    for properties in models:
        for name, schema in properties.items():
            key = _key(name, schema)
            if uses[key] == 1 or len(key) < _SHORT:
                continue
            if key not in references:
                title = f"scheme.{schema.get('const') or schema['enum'][0]}" if name == "scheme" else name
                variants[title] += 1
                title = title if variants[title] == 1 else f"{title}.{variants[title]}"
                shared[title] = schema
                references[key] = {"$ref": REF.format(model=title)}
            properties[name] = references[key]
    return shared


def _key(name: str, schema: Schema) -> str:
    return json.dumps([name, schema], sort_keys=True)
