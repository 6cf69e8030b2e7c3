"""The catalogue: the registry, told to a client."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators import Generator
from weightwell_engine.parsing import SINGLES, schema_of
from weightwell_engine.presets import PRESETS, Preset
from weightwell_engine.schemes import SCHEMES, Scheme


def catalogue(generators: Iterable[Generator]) -> dict[str, Any]:
    """Return every scheme with its parameters, every dtype, and every generator with what its numbers depend on."""
    return {
        "schemes": _schemes(),
        "dtypes": [
            {"name": dtype.name, "safetensors": dtype.code, "bytes": dtype.itemsize} for dtype in DTYPES.values()
        ],
        "generators": [
            {"name": generator.name, "identity": generator.identity, "portable": generator.portable}
            for generator in generators
        ],
    }


@cache
def _schemes() -> list[dict[str, Any]]:
    return [_scheme(scheme) for scheme in SCHEMES.values()]


def _scheme(scheme: Scheme) -> dict[str, Any]:
    low, high = scheme.ndim
    properties = SINGLES[scheme.name].model_json_schema()["properties"]
    return {
        "name": scheme.name,
        "aliases": list(scheme.aliases),
        "summary": scheme.summary,
        "formula": scheme.formula,
        "references": list(scheme.references),
        "dimensions": {"min": low, "max": high},
        "unit": scheme.unit,
        "parameters": [
            {"name": parameter.name, "required": parameter.default is ..., **properties[parameter.name]}
            for parameter in scheme.parameters
        ],
    }


# What a preset's parameters are in its example, where it has no defaults for them.
_EXAMPLE = {"layers": 2, "width": 512, "base_width": 256, "names": "llama", "readout": "plain"}


@cache
def presets() -> dict[str, Any]:
    """Return every preset with its parameters, its sources, and its rules for an example."""
    return {"presets": [_preset(preset) for preset in PRESETS.values()]}


def _preset(preset: Preset) -> dict[str, Any]:
    example = {each.name: _EXAMPLE[each.name] for each in preset.parameters if each.default is ...}
    return {
        "name": preset.name,
        "summary": preset.summary,
        "references": list(preset.references),
        "parameters": [
            {"name": each.name, "required": each.default is ..., **schema_of(each)} for each in preset.parameters
        ],
        "example": {"preset": {"name": preset.name, **example}, "rules": list(preset.rules(**example))},
    }
