"""Fields: the values of names, shapes, seeds, slices and axes, in query strings and in JSON, with their JSON Schema."""

import re
from collections.abc import Callable
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, WithJsonSchema

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.spec import GENERATORS

DEFAULT_NAME = "weight"
DEFAULT_DTYPE = "float32"
DEFAULT_SEED = 0
MAX_NAME = 1024
MAX_SEED = 2**64 - 1
MAX_DIMENSIONS = 64
MAX_SIZE = 2**63 - 1
MAX_VALUES = 2**16
MAX_SEEDS = 64

_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\d{1,400}+\.?+\d{0,400}+|\.\d{1,400}+)([eE][-+]?\d{1,4}+)?", re.ASCII)
_NUMBERS = f"a list of 1 to {MAX_VALUES} finite numbers that float64 holds, as [0.5, 1], or 0.5,1 in a query"
_SEEDS = f"1 to {MAX_SEEDS} different integers in [0, 2^64 - 1], as [0, 1], or 0,1 in a query"
_AXIS = re.compile(r"-?\d{1,2}", re.ASCII)
_AXES = "an axis, such as 0 or -1, or a list of different axes, as [0, 1], or 0,1 in a query"
# Possessive quantifiers prevent backtracking on many blanks.
_BOUNDS = re.compile(r"\s*+(\d{0,20})\s*+:\s*+(\d{0,20})\s*+", re.ASCII)


def _size(value: object) -> int:
    """Read one non-negative integer of at most 63 bits."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
        raise ValueError("non-negative integers below 2^63, as [512, 784], or 512,784 in a query")
    return value


def _shape(value: object) -> tuple[int, ...]:
    """Read ``"512,784"`` or ``[512, 784]``; the empty shape is a scalar."""
    parts = [] if value == "" else value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) > MAX_DIMENSIONS:
        raise ValueError(f"a list of at most {MAX_DIMENSIONS} sizes, such as [512, 784], or 512,784 in a query")
    return tuple([_size(part) for part in parts])


def _numbers(value: object) -> tuple[float, ...]:
    """Read ``[0.5, 1]``, or ``"0.5,1"``: finite numbers that a double holds exactly."""
    parts = value.split(",", MAX_VALUES) if isinstance(value, str) else value
    if not isinstance(parts, list) or not 0 < len(parts) <= MAX_VALUES:
        raise ValueError(_NUMBERS)
    return tuple([_number(part) for part in parts])


def _number(value: object) -> float:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _DECIMAL.fullmatch(value.strip())):
        raise ValueError(_NUMBERS)
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(_NUMBERS) from None
    if not isfinite(number) or (isinstance(value, int) and number != value):
        raise ValueError(_NUMBERS)
    return number


def _axes(value: object) -> tuple[int, ...]:
    """Read ``0``, ``[0, 1]``, ``"0"`` or ``"0,1"``: different axes. Negative axes count from the end."""
    parts = [] if value == "" else value.split(",", MAX_DIMENSIONS) if isinstance(value, str) else value
    axes = [_axis(part) for part in parts] if isinstance(parts, list) else [_axis(parts)]
    if len(set(axes)) < len(axes):
        raise ValueError(_AXES)
    return tuple(sorted(axes))


def _axis(value: object) -> int:
    if isinstance(value, str) and _AXIS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -MAX_DIMENSIONS <= value < MAX_DIMENSIONS:
        raise ValueError(_AXES)
    return value


def _seed(value: object) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ValueError("an integer in [0, 2^64 - 1], as a number or a decimal string")
    return value


def _seeds(value: object) -> tuple[int, ...]:
    """Read ``"0,1,2"``, ``0`` or ``[0, 1, 2]``: different seeds."""
    parts = value.split(",", MAX_SEEDS) if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not 0 < len(parts) <= MAX_SEEDS:
        raise ValueError(_SEEDS)
    try:
        seeds = tuple([_seed(part) for part in parts])
    except ValueError:
        raise ValueError(_SEEDS) from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(_SEEDS)
    return seeds


def _slice(value: object) -> tuple[tuple[int, int | None], ...]:
    """Read ``"0:128,:"`` as (start, stop) for each dimension; None as stop means the end."""
    parts = value.split(",", MAX_DIMENSIONS) if isinstance(value, str) else []
    matches = [_BOUNDS.fullmatch(part) for part in parts]
    if not matches or not all(matches):
        raise ValueError("start:stop for every dimension, such as 0:128,: for the first 128 rows")
    return tuple((int(m[1] or 0), int(m[2]) if m[2] else None) for m in matches if m)


def read_name(value: object) -> str:
    """Read the name of a tensor; raise ``ValueError`` with the allowed values."""
    if not is_name(value):
        raise ValueError(f"1 to {MAX_NAME} Unicode characters, and not __metadata__, which the file format reserves")
    return str(value)


def is_name(value: object) -> bool:
    """Whether a value can be the name of a tensor."""
    return _is_text(value) and value != "__metadata__"


def _text(value: object) -> str:
    """Read a pattern, or the name of a type."""
    if not _is_text(value):
        raise ValueError(f"1 to {MAX_NAME} Unicode characters")
    return str(value)


def _preset(value: object) -> tuple[str, dict[str, object]]:
    """Read ``"gpt2"`` or ``{"name": "gpt2", "layers": 12}``: a name and parameters."""
    fields = {"name": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
    if isinstance(name := fields.get("name"), str):
        return name, {key: fields[key] for key in fields if key != "name"}
    raise ValueError("the name of a preset, or an object with a name and parameters; /presets lists them")


def _is_text(value: object) -> bool:
    """Whether a value is a string, not too long, that UTF-8 can encode: JSON allows half of a surrogate pair."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        return False
    return value.isascii() or value.encode(errors="replace").decode() == value


def _field(read: Callable[[object], Any], **schema: Any) -> Any:
    return (PlainValidator(read), WithJsonSchema(schema))


_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}

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
_AN_AXIS = {"type": "integer", "minimum": -MAX_DIMENSIONS, "maximum": MAX_DIMENSIONS - 1}
Axes = Annotated[
    tuple[int, ...],
    *_field(_axes, anyOf=[_AN_AXIS, {"type": "array", "items": _AN_AXIS, "uniqueItems": True}]),
]
Numbers = Annotated[
    tuple[float, ...],
    *_field(_numbers, type="array", items={"type": "number"}, minItems=1, maxItems=MAX_VALUES),
]
_A_SEED: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 0, "maximum": MAX_SEED}, {"type": "string", "pattern": r"^[0-9]{1,20}$"}]
}
Seed = Annotated[
    int,
    *_field(_seed, **_A_SEED, examples=[42]),
]
Seeds = Annotated[
    tuple[int, ...],
    *_field(_seeds, type="array", items=_A_SEED, minItems=1, maxItems=MAX_SEEDS, uniqueItems=True, examples=[[0, 1]]),
]
Slice = Annotated[
    tuple[tuple[int, int | None], ...],
    *_field(_slice, type="string", pattern=r"^\d*:\d*(,\d*:\d*)*$", examples=["0:128,:"]),
]
Name = Annotated[str, *_field(read_name, **_TEXT, examples=[DEFAULT_NAME])]
Glob = Annotated[str, *_field(_text, **_TEXT, examples=["*.bias"])]
Regex = Annotated[str, *_field(_text, **_TEXT, examples=[r"h\.\d+\.mlp\..*"])]
PresetChoice = Annotated[
    tuple[str, dict[str, object]],
    *_field(
        _preset,
        anyOf=[
            {"type": "string"},
            {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        ],
        examples=["torch", {"name": "gpt2", "layers": 12}],
    ),
]
ModuleName = Annotated[str, *_field(_text, **_TEXT, examples=["Linear"])]
DTypeName: Any = Literal[tuple(DTYPES)]
GeneratorName: Any = Literal[GENERATORS]
