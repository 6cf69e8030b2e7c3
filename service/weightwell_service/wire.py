"""The wire: what a query string or a JSON body may say, and the spec that it means.

Pydantic lives here and in ``settings`` only. There is a model for every scheme, made from the registry, so that a
parameter is accepted by the schemes that have it and by no other; a query string and a JSON body are read by the same
models, the one leniently, since all that it holds is text, the other strictly.
"""

import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema, create_model

from weightwell_service.dtypes import DTYPES
from weightwell_service.exceptions import InvalidSpec, InvalidSpecs, MalformedBody
from weightwell_service.schemes import ALIASES, SCHEMES, Scheme
from weightwell_service.spec import GENERATORS, Parameter, Spec, TensorSpec

DEFAULT_NAME = "weight"
DEFAULT_DTYPE = "float32"
DEFAULT_SEED = 0
MAX_NAME = 1024
MAX_SEED = 2**64 - 1
MAX_DIMENSIONS = 64
MAX_SIZE = 2**63 - 1

_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_BOUNDS = re.compile(r"\s*(\d{0,20})\s*:\s*(\d{0,20})\s*", re.ASCII)


# Fields --------------------------------------------------------------------------------------------------------------


def _size(value: object) -> int:
    """Read one non-negative integer of at most 63 bits."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
        raise ValueError("non-negative integers below 2^63")
    return value


def _shape(value: object) -> tuple[int, ...]:
    """Read ``"512,784"`` or ``[512, 784]``; empty is the shape of a scalar."""
    parts = [] if value == "" else value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) > MAX_DIMENSIONS:
        raise ValueError(f"a list of at most {MAX_DIMENSIONS} sizes, such as [512, 784], or 512,784 in a query")
    return tuple(_size(part) for part in parts)


def _seed(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ValueError("an integer in [0, 2^64 - 1], as a number or a decimal string")
    return value


def _slice(value: object) -> tuple[tuple[int, int | None], ...]:
    """Read ``"0:128,:"``: for each dimension where to start and where to stop, None for its end."""
    matches = [_BOUNDS.fullmatch(part) for part in value.split(",")] if isinstance(value, str) else [None]
    if not all(matches):
        raise ValueError("start:stop for every dimension, such as 0:128,: for the first 128 rows")
    return tuple((int(m[1] or 0), int(m[2]) if m[2] else None) for m in matches if m)


def _name(value: object) -> str:
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_NAME
        or value == "__metadata__"
        or not _is_unicode(value)
    ):
        raise ValueError(f"1 to {MAX_NAME} Unicode characters, and not __metadata__, which the file format reserves")
    return value


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON can smuggle in half of a surrogate pair."""
    return text.encode(errors="replace").decode() == text


def _field(read: Callable[[object], Any], **schema: Any) -> Any:
    return (PlainValidator(read), WithJsonSchema(schema))


Shape = Annotated[
    tuple[int, ...],
    *_field(
        _shape,
        type="array",
        items={"type": "integer", "minimum": 0, "maximum": MAX_SIZE},
        maxItems=MAX_DIMENSIONS,
        examples=[[512, 784]],
    ),
]
Seed = Annotated[
    int,
    *_field(
        _seed,
        anyOf=[{"type": "integer", "minimum": 0, "maximum": MAX_SEED}, {"type": "string", "pattern": r"^[0-9]{1,20}$"}],
        examples=[42],
    ),
]
Slice = Annotated[
    tuple[tuple[int, int | None], ...],
    *_field(_slice, type="string", pattern=r"^\d*:\d*(,\d*:\d*)*$", examples=["0:128,:"]),
]
Name = Annotated[str, *_field(_name, type="string", minLength=1, maxLength=MAX_NAME, examples=[DEFAULT_NAME])]
DTypeName: Any = Literal[tuple(DTYPES)]
GeneratorName: Any = Literal[GENERATORS]


# Models --------------------------------------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


M = TypeVar("M", bound=_Model)


class Entry(_Model):
    """What every tensor may say, whatever its scheme."""

    shape: Annotated[Shape, Field(description="sizes of the whole tensor, [] for a scalar")]
    dtype: Annotated[DTypeName | None, Field(description="element type, by torch's name; float32 by default")] = None
    seed: Annotated[Seed | None, Field(description="seed of the generator; 0 by default")] = None
    slice: Annotated[Slice | None, Field(description="start:stop in every dimension; fans stay the whole tensor's")] = (
        None
    )


class Single(Entry):
    """A file of one tensor."""

    name: Annotated[Name, Field(description="name of the tensor in the file")] = DEFAULT_NAME
    generator: Annotated[GeneratorName, Field(description="who draws the numbers")] = GENERATORS[0]


class GainQuery(_Model):
    """A question for a gain."""

    nonlinearity: Annotated[
        str | None, Field(description="whose gain; without it, the whole table", examples=["relu"])
    ] = None
    param: Annotated[float | None, Field(description="its parameter, such as the negative slope of leaky_relu")] = None
    source: Annotated[
        Literal["torch", "quadrature"],
        Field(description="torch: the value that torch recommends; quadrature: what a normal input measures"),
    ] = "torch"


class Manifest(_Model):
    """A file of many tensors; what is said here holds for all that do not say otherwise."""

    tensors: dict[str, Any]
    dtype: DTypeName = DEFAULT_DTYPE
    seed: Seed = DEFAULT_SEED
    generator: GeneratorName = GENERATORS[0]


E = TypeVar("E", bound=Entry)


def _model(scheme: Scheme, base: type[E]) -> type[E]:
    """Make the model of one scheme: the base's fields, the scheme's own parameters, and nothing else."""
    names: Any = Literal[(scheme.name, *scheme.aliases)]
    fields: dict[str, Any] = {"scheme": (Annotated[names, Field(description="how the tensor is initialized")], ...)}
    fields |= {
        parameter.name: (Annotated[parameter.annotation, Field(description=parameter.doc)], parameter.default)
        for parameter in scheme.parameters
    }
    return create_model(
        f"{base.__name__}_{scheme.name}",
        __base__=base,
        __doc__=f"{scheme.summary}\n\n{scheme.formula}",
        **fields,
    )


SINGLES = {name: _model(scheme, Single) for name, scheme in SCHEMES.items()}
ENTRIES = {name: _model(scheme, Entry) for name, scheme in SCHEMES.items()}


# Reading -------------------------------------------------------------------------------------------------------------


def read_query(items: Iterable[tuple[str, str]]) -> Spec:
    """Return the spec that a query string means; raise ``InvalidSpec`` or ``InvalidSpecs`` if it means none."""
    fields = _once(items)
    return _single(_validate(_model_of(fields, SINGLES), fields, strings=True))


def read_gain_query(items: Iterable[tuple[str, str]]) -> GainQuery:
    """Return the question that a query string asks of ``/gain``; raises as ``read_query``."""
    query = _validate(GainQuery, _once(items), strings=True)
    if query.nonlinearity is None and query.param is not None:
        raise InvalidSpec("param", got=query.param, expected="given beside the nonlinearity that it belongs to")
    return query


def _once(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in items:
        if key in fields:
            raise InvalidSpec(key, got=[fields[key], value], expected="given once", detail=f"{key} is given twice")
        fields[key] = value
    return fields


def read_body(body: bytes) -> Spec:
    """Return the spec that a JSON body means; raise ``MalformedBody``, ``InvalidSpec`` or ``InvalidSpecs`` if none."""
    fields = _parse_json(body)
    if not isinstance(fields, dict):
        raise MalformedBody(f"the body must be a JSON object, got {_kind(fields)}")
    if "tensors" in fields:
        return _manifest(_validate(Manifest, fields))
    return _single(_validate(_model_of(fields, SINGLES), fields))


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body must be JSON (RFC 8259): {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"each key must be given once, got {twice!r} twice")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number, and no parameter may have that value")


def _kind(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")


def _model_of(fields: Mapping[str, object], models: Mapping[str, type[E]]) -> type[E]:
    scheme = fields.get("scheme")
    if not isinstance(scheme, str) or scheme not in ALIASES:
        like = get_close_matches(scheme.lower(), ALIASES, 1) if isinstance(scheme, str) and len(scheme) < 40 else []
        hint = f"; did you mean {like[0]}?" if like else ""
        detail = f"scheme must be one of {', '.join(ALIASES)}, got {reprlib.repr(scheme)}{hint}"
        raise InvalidSpec("scheme", got=scheme, expected="the name of a scheme; /schemes lists them", detail=detail)
    return models[ALIASES[scheme]]


def _validate(model: type[M], fields: Mapping[str, Any], *, strings: bool = False) -> M:
    if isinstance(mode := fields.get("mode"), str):
        fields = {**fields, "mode": mode.lower()}  # as torch does
    try:
        return model.model_validate_strings(fields) if strings else model.model_validate(fields, strict=True)
    except ValidationError as error:
        found = [_invalid(details, model) for details in error.errors(include_url=False)]
        raise found[0] if len(found) == 1 else InvalidSpecs(found) from None


def _invalid(error: Any, model: type[BaseModel]) -> InvalidSpec:
    """Translate one of pydantic's errors into field, got and expected."""
    field = ".".join(str(part) for part in error["loc"]) or "body"
    match error["type"]:
        case "extra_forbidden":
            known = ", ".join(model.model_fields)
            detail = f"{field} is not a field here; the fields are {known}"
            return InvalidSpec(field, got=error["input"], expected=f"one of the fields {known}", detail=detail)
        case "missing":
            return InvalidSpec(field, got=None, expected="given", detail=f"{field} is missing")
        case "value_error":
            return InvalidSpec(field, got=error["input"], expected=str(error["ctx"]["error"]))
    return InvalidSpec(field, got=error["input"], expected=error["msg"].removeprefix("Input should be "))


# From models to specs ------------------------------------------------------------------------------------------------


def _single(model: Single) -> Spec:
    return Spec(model.generator, (_tensor(model.name, model, dtype=DEFAULT_DTYPE, seed=DEFAULT_SEED),))


def _manifest(manifest: Manifest) -> Spec:
    tensors: list[TensorSpec] = []
    errors: list[InvalidSpec] = []
    for name, fields in manifest.tensors.items():
        try:
            tensors.append(_tensor(name, _entry(name, fields), dtype=manifest.dtype, seed=manifest.seed))
        except (InvalidSpec, InvalidSpecs) as error:
            errors += [each.within(f"tensors.{name}") for each in error.errors]
    if errors:
        raise InvalidSpecs(errors)
    return Spec(manifest.generator, tuple(tensors))


def _entry(name: str, fields: object) -> Entry:
    try:
        _name(name)
    except ValueError as error:
        raise InvalidSpec("name", got=name, expected=str(error)) from None
    if not isinstance(fields, dict):
        raise InvalidSpec("spec", got=fields, expected="an object with a shape and a scheme")
    return _validate(_model_of(fields, ENTRIES), fields)


def _tensor(name: str, model: Entry, *, dtype: str, seed: int) -> TensorSpec:
    scheme = SCHEMES[ALIASES[model.scheme]]  # type: ignore[attr-defined]
    values = {parameter.name: getattr(model, parameter.name) for parameter in scheme.parameters}
    parameters: dict[str, Parameter] = {key: value for key, value in values.items() if value is not None}
    return TensorSpec(
        name=name,
        shape=model.shape,
        dtype=model.dtype or dtype,
        seed=seed if model.seed is None else model.seed,
        scheme=scheme.name,
        parameters=parameters,
        slice=_bounds(model.slice, model.shape),
    )


def _bounds(
    given: tuple[tuple[int, int | None], ...] | None, shape: tuple[int, ...]
) -> tuple[tuple[int, int], ...] | None:
    """Return where a slice starts and stops in every dimension, or None where that is all of the tensor."""
    if given is None:
        return None
    if len(given) > len(shape):
        raise InvalidSpec("slice", got=len(given), expected=f"at most {len(shape)} dimensions, as the shape has")
    padded = given + ((0, None),) * (len(shape) - len(given))
    bounds = tuple((start, size if stop is None else stop) for (start, stop), size in zip(padded, shape, strict=True))
    return None if bounds == tuple((0, size) for size in shape) else bounds
