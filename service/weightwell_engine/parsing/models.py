"""Models: the fields of a request, in pydantic.

Every scheme and every preset has its own model, made from the registry. A model accepts the parameters of its scheme
and no others. The same models read query strings and JSON bodies: values in a query are text and are converted, values
in JSON must have the right type.
"""

import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, did_you_mean
from weightwell_engine.parsing.fields import (
    DEFAULT_DTYPE,
    DEFAULT_NAME,
    DEFAULT_SEED,
    Axes,
    DTypeName,
    GeneratorName,
    Glob,
    ModuleName,
    Name,
    Numbers,
    PresetChoice,
    Regex,
    Seed,
    Shape,
    Slice,
)
from weightwell_engine.parsing.rules import MAX_RULES
from weightwell_engine.presets import PRESETS
from weightwell_engine.schemes import ALIASES, SCHEMES, AxisList, SchemeParameter
from weightwell_engine.spec import GENERATORS, MAX_PARTS, Parameter

# Used in place of a scheme. It means the default initialization of the tensor's module.
RESET_PARAMETERS = "reset_parameters"


class Model(BaseModel):
    """A strict, immutable model: no unknown fields, no infinities.

    There are some 100 models. Each is built when it is first used, since building all of them takes half a second.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, defer_build=True)


class Tensor(Model):
    """The fields of a tensor of any scheme."""

    shape: Annotated[Shape, Field(description="sizes of the whole tensor, [] for a scalar")]
    dtype: Annotated[DTypeName | None, Field(description="element type, by torch's name; float32 by default")] = None
    seed: Annotated[Seed | None, Field(description="seed of the generator; 0 by default")] = None
    slice: Annotated[Slice | None, Field(description="start:stop in every dimension; fans stay the whole tensor's")] = (
        None
    )
    stream: Annotated[
        Name | None, Field(description="name that the random words are derived from; the tensor's own by default")
    ] = None


class Single(Tensor):
    """A file of one tensor."""

    name: Annotated[Name, Field(description="name of the tensor in the file")] = DEFAULT_NAME
    generator: Annotated[GeneratorName, Field(description="the generator of the numbers")] = GENERATORS[0]


class Entry(Tensor):
    """A tensor of a manifest; without a scheme it takes that of the first rule that matches."""

    module: Annotated[ModuleName | None, Field(description="name of the type of the tensor's module")] = None
    parts: Annotated[
        list[Any] | None,
        Field(description="slices with schemes of their own, in order: later ones cover earlier", max_length=MAX_PARTS),
    ] = None


class Part(Model):
    """A part of a tensor of a manifest, drawn as a tensor of its own that has the shape of the part."""

    slice: Annotated[Slice, Field(description="start:stop in every dimension of the whole tensor")]
    stream: Annotated[
        Name | None, Field(description="name that the random words are derived from; NAME[start:stop,...] by default")
    ] = None


class Alias(Model):
    """A further name for a tensor of the manifest: tied weights, which are stored once."""

    alias: Annotated[Name, Field(description="name of the tensor that this one is tied to")]


class Rule(Model):
    """A scheme for tensors that have none: a condition, by name or module, and the scheme with its parameters."""

    match: Annotated[
        Glob | None, Field(description="a glob for the whole name: * is any text, dots as well, ? a character")
    ] = None
    regex: Annotated[Regex | None, Field(description="a regular expression for the whole name, in RE2's syntax")] = None
    module: Annotated[ModuleName | None, Field(description="name of the type of module that the tensor belongs to")] = (
        None
    )
    dtype: Annotated[DTypeName | None, Field(description="element type, unless the tensor has its own")] = None
    seed: Annotated[Seed | None, Field(description="seed, unless the tensor has its own")] = None


class Manifest(Model):
    """A file of many tensors; ``dtype``, ``seed`` and ``generator`` are defaults for all of them."""

    tensors: dict[str, Any]
    rules: Annotated[
        list[Any],
        Field(description="for tensors without a scheme; the first rule that matches applies", max_length=MAX_RULES),
    ] = []
    preset: Annotated[
        PresetChoice | None, Field(description="name of further rules, which come after `rules`; /presets lists them")
    ] = None
    dtype: DTypeName = DEFAULT_DTYPE
    seed: Seed = DEFAULT_SEED
    generator: GeneratorName = GENERATORS[0]


# A model for every scheme --------------------------------------------------------------------------------------------

M = TypeVar("M", bound=Model)


def _with_scheme(
    base: type[M],
    names: Iterable[str],
    doc: str,
    parameters: Iterable[SchemeParameter] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> type[M]:
    """Make the model of one scheme: the fields of the base, the scheme under its names, and its parameters."""
    scheme, *aliases = names
    literal: Any = Literal[(scheme, *aliases)]
    fields: dict[str, Any] = {"scheme": (Annotated[literal, Field(description="how the tensor is initialized")], ...)}
    fields |= {**more, **_fields(parameters)}
    return create_model(f"{base.__name__}_{scheme}", __base__=base, __doc__=doc, **fields)


def _fields(parameters: Iterable[SchemeParameter]) -> dict[str, Any]:
    """Return the fields of a model that has these parameters."""
    return {each.name: (Annotated[_annotation(each), Field(description=each.doc)], each.default) for each in parameters}


def _annotation(parameter: SchemeParameter) -> Any:
    """Return the annotation by which pydantic reads a parameter."""
    if parameter.annotation == AxisList:
        return Axes | None
    return _LISTS.get(get_args(parameter.annotation)[:1], parameter.annotation)


# How pydantic reads lists, which are text in a query.
_LISTS: dict[tuple[Any, ...], Any] = {(tuple[float, ...],): Numbers, (tuple[int, ...] | None,): Shape | None}


class Models(Mapping[str, type[M]]):
    """Models by name. Each is made when it is first used, since making all of them takes a tenth of a second."""

    def __init__(self, names: Iterable[str], make: Callable[[str], type[M]]):
        self._names = dict.fromkeys(names)
        self._make = cache(make)

    def __getitem__(self, name: str) -> type[M]:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_RESET_DOC = "Initialize as the tensor's own module of torch.nn does, by its reset_parameters."


def models_of(
    base: type[M],
    names: Iterable[str],
    *,
    omitted: Collection[str] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Models[M]:
    """Return the models of some schemes on a base, without the ``omitted`` parameters, and with ``more`` fields."""

    def make(name: str) -> type[M]:
        if name == RESET_PARAMETERS:
            return _with_scheme(base, [name], _RESET_DOC)
        scheme = SCHEMES[name]
        doc = f"{scheme.summary}\n\n{scheme.formula}"
        parameters = [each for each in scheme.parameters if each.name not in omitted]
        return _with_scheme(base, (name, *scheme.aliases), doc, parameters, more)

    return Models(names, make)


SINGLES = models_of(Single, SCHEMES)
ENTRIES = models_of(Entry, [*SCHEMES, RESET_PARAMETERS])
RULES = models_of(Rule, [*SCHEMES, RESET_PARAMETERS])
PARTS = models_of(Part, [name for name in SCHEMES if name != "values"])
PRESET_PARAMETERS = Models(
    PRESETS, lambda name: create_model(f"Preset_{name}", __base__=Model, **_fields(PRESETS[name].parameters))
)


def of_scheme(fields: Mapping[str, object], models: Mapping[str, type[M]]) -> type[M]:
    """Return the model of the scheme that the fields name; raise ``InvalidSpec`` if there is none."""
    scheme = fields.get("scheme")
    found = models.get(ALIASES.get(scheme, scheme)) if isinstance(scheme, str) else None
    if "scheme" not in fields:
        expected = "the name of a scheme; /schemes lists them"
        raise InvalidSpec("scheme", got=None, expected=expected, detail="scheme is missing; /schemes lists them")
    if found is None:
        names = [*(name for name in ALIASES if ALIASES[name] in models), *(models.keys() - ALIASES.keys())]
        hint = did_you_mean(scheme, names)
        detail = hint and f"there is no scheme {reprlib.repr(scheme)}; {hint} /schemes lists them"
        raise InvalidSpec("scheme", got=scheme, expected=f"one of {', '.join(names)}", detail=detail, hint=hint)
    return found


def scheme_of(model: Model) -> tuple[str, dict[str, Parameter]]:
    """Return the scheme of a model, by its own name, and the parameters that a canonical spec has."""
    said: str = model.scheme  # type: ignore[attr-defined]
    name = ALIASES.get(said, said)
    parameters = SCHEMES[name].parameters if name in SCHEMES else ()
    values: dict[str, Parameter] = {}
    for parameter in parameters:
        value = getattr(model, parameter.name, None)
        if value is not None and not (parameter.omitted and value == parameter.default):
            values[parameter.name] = value
    return name, values


def schema_of(parameter: SchemeParameter) -> dict[str, Any]:
    """Return the JSON Schema of a parameter, with its default if it has one."""
    default = {} if parameter.default is ... else {"default": parameter.default}
    return {"description": parameter.doc, **default, **TypeAdapter(parameter.annotation).json_schema()}


# Validation ----------------------------------------------------------------------------------------------------------


def validate(model: type[M], fields: Mapping[str, Any], *, strings: bool = False) -> M:
    """Return a model of fields whose values are ``strings`` or JSON's; raise ``InvalidSpec`` or ``InvalidSpecs``."""
    if isinstance(mode := fields.get("mode"), str):
        fields = {**fields, "mode": mode.lower()}  # as torch does
    try:
        return model.model_validate_strings(fields) if strings else model.model_validate(fields, strict=True)
    except ValidationError as error:
        found = [_invalid(details, model) for details in error.errors(include_url=False)]
        raise found[0] if len(found) == 1 else InvalidSpecs(found) from None


_QUOTED = re.compile(r"'([^']*)'")

# JSON's names of types, which replace Python's names in pydantic's messages.
_IN_JSON = {"dict_type": "an object", "list_type": "a list"}


def _invalid(error: Any, model: type[BaseModel]) -> InvalidSpec:
    """Convert an error of pydantic to field, got and expected."""
    field = ".".join(str(part) for part in error["loc"]) or ("''" if error["loc"] else "body")
    match error["type"]:
        case "extra_forbidden":
            known = ", ".join(model.model_fields) + ("; and the parameters of a scheme" if model is Entry else "")
            hint = did_you_mean(error["loc"][-1], model.model_fields)
            fields = f"the fields are {known}" if known else "there are none"
            detail = f"{field} is not a field here; {f'{hint} ' if hint else ''}{fields}"
            expected = f"one of the fields {known}" if known else "absent"
            return InvalidSpec(field, got=error["input"], expected=expected, detail=detail, hint=hint)
        case "missing":
            meaning = model.model_fields[field].description
            detail = f"{field} is missing: {meaning}" if meaning else f"{field} is missing"
            return InvalidSpec(field, got=None, expected="given", detail=detail)
        case "too_long":
            expected = f"a list of at most {error['ctx']['max_length']} items"
            return InvalidSpec(field, got=error["input"], expected=expected)
        case "value_error":
            return InvalidSpec(field, got=error["input"], expected=str(error["ctx"]["error"]))
        case "literal_error":
            expected = error["ctx"]["expected"]  # 'fan_in' or 'fan_out'
            hint = did_you_mean(error["input"], _QUOTED.findall(expected))
            return InvalidSpec(field, got=error["input"], expected=expected, hint=hint)
    expected = _IN_JSON.get(error["type"], error["msg"].removeprefix("Input should be "))
    return InvalidSpec(field, got=error["input"], expected=expected)
