"""The catalogue: schemes, dtypes, generators and presets, as JSON answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators import Generator
from weightwell_engine.parsing import SINGLES, schema_of
from weightwell_engine.presets import PRESETS, Preset
from weightwell_engine.schemes import SCHEMES, Scheme, Unit

ParameterSchema = dict[str, Any]
"""A parameter: its ``name``, whether it is ``required``, and its JSON Schema."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The allowed number of dimensions of a tensor; ``max`` is None for no limit."""

    min: int
    max: int | None


@dataclass(frozen=True, slots=True)
class SchemeEntry:
    """One scheme. ``unit`` is the smallest part that can be drawn: an element, a column or a matrix."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    formula: str
    references: tuple[str, ...]
    dimensions: Dimensions
    unit: Unit
    parameters: tuple[ParameterSchema, ...]


@dataclass(frozen=True, slots=True)
class DTypeEntry:
    """One dtype: its code in a safetensors header, and the bytes of an element."""

    name: str
    safetensors: str
    bytes: int


@dataclass(frozen=True, slots=True)
class GeneratorEntry:
    """One generator. Its numbers depend on ``identity`` and the spec. ``portable``: they are equal on every machine."""

    name: str
    identity: str
    portable: bool

    @classmethod
    def of(cls, generator: Generator) -> "GeneratorEntry":
        """Return the entry of a generator."""
        return cls(generator.name, generator.identity, generator.portable)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All schemes, dtypes and generators."""

    schemes: tuple[SchemeEntry, ...]
    dtypes: tuple[DTypeEntry, ...]
    generators: tuple[GeneratorEntry, ...]


@dataclass(frozen=True, slots=True)
class PresetExample:
    """A preset with values for its parameters, and the resulting rules."""

    preset: dict[str, Any]
    rules: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class PresetEntry:
    """One preset."""

    name: str
    summary: str
    references: tuple[str, ...]
    parameters: tuple[ParameterSchema, ...]
    example: PresetExample


@dataclass(frozen=True, slots=True)
class PresetCatalogue:
    """Every preset."""

    presets: tuple[PresetEntry, ...]


def catalogue(generators: Iterable[Generator]) -> Catalogue:
    """Return the catalogue of an engine with these generators."""
    dtypes = tuple(DTypeEntry(dtype.name, dtype.code, dtype.itemsize) for dtype in DTYPES.values())
    return Catalogue(_schemes(), dtypes, tuple(map(GeneratorEntry.of, generators)))


@cache
def preset_catalogue() -> PresetCatalogue:
    """Return every preset, each with an example."""
    return PresetCatalogue(tuple(map(_preset, PRESETS.values())))


@cache
def _schemes() -> tuple[SchemeEntry, ...]:
    return tuple(map(_scheme, SCHEMES.values()))


def _scheme(scheme: Scheme) -> SchemeEntry:
    properties = SINGLES[scheme.name].model_json_schema()["properties"]
    return SchemeEntry(
        name=scheme.name,
        aliases=scheme.aliases,
        summary=scheme.summary,
        formula=scheme.formula,
        references=scheme.references,
        dimensions=Dimensions(*scheme.ndim),
        unit=scheme.unit,
        parameters=tuple(
            {"name": parameter.name, "required": parameter.default is ..., **properties[parameter.name]}
            for parameter in scheme.parameters
        ),
    )


# The parameters of an example, where a preset has no defaults for them.
_EXAMPLE = {"layers": 2, "width": 512, "base_width": 256, "names": "llama", "readout": "plain"}


def _preset(preset: Preset) -> PresetEntry:
    example = {each.name: _EXAMPLE[each.name] for each in preset.parameters if each.default is ...}
    return PresetEntry(
        name=preset.name,
        summary=preset.summary,
        references=preset.references,
        parameters=tuple(
            {"name": each.name, "required": each.default is ..., **schema_of(each)} for each in preset.parameters
        ),
        example=PresetExample({"name": preset.name, **example}, preset.rules(**example)),
    )
