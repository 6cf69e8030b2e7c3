"""Answers: what a server says that it drew, compared with what was asked, field by field.

The answer to another request looks whole. A proxy, a cache or a shared connection can mix two answers up, so every
answer must prove that it is the right one: a Weightwell server writes into the metadata of every file the spec that it
drew, with every default spelled out, and repeats in every document what it was asked.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightwell.exceptions import InvalidFile, UnexpectedResponse
from weightwell.schemes import DEFAULTS, SCHEMES
from weightwell.slices import Bounds, text_of

# What the fields of a tensor or a rule hold besides the parameters of a scheme.
_OTHERS = {"shape", "slice", "dtype", "seed", "scheme", "module", "match", "regex"}

# What a query may say for a truth value.
_WORDS = {
    True: {"true", "1", "t", "y", "yes", "on"},
    False: {"false", "0", "f", "n", "no", "off"},
}

# Parameters that the metadata does not have if they have these values.
_OMITTED = {"layout": "torch", "batch_axis": ()}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field of an answer, such as ``seed``, that has another value than the one that was asked for."""

    field: str
    asked: object
    got: object

    def __str__(self) -> str:
        return (
            f"the answer belongs to another request: {self.field}: asked for {self.asked!r:.200}, "
            f"got {self.got!r:.200}; look for a proxy or a cache that mixes answers up"
        )


@dataclass(frozen=True, slots=True)
class OneOf:
    """Values of which an answer may have any."""

    values: tuple[object, ...]

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


def raise_first(mismatches: Iterable[Mismatch], kind: type[UnexpectedResponse] = UnexpectedResponse) -> None:
    """Raise the first mismatch as an exception of this kind, if there is one."""
    for mismatch in mismatches:
        raise kind(str(mismatch))


def spec_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the spec in the metadata of a file: ``generator`` and ``tensors``, by name.

    Raises ``InvalidFile`` where there is none.
    """
    if "spec" not in metadata:
        raise InvalidFile("the metadata of the file does not say how it was made: no Weightwell server has drawn it")
    try:
        spec = json.loads(metadata["spec"])
    except (TypeError, ValueError, RecursionError):
        raise InvalidFile("the metadata of the file has a spec that is not JSON") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("tensors"), dict):
        raise InvalidFile("the metadata of the file has a spec that is none of Weightwell's")
    return spec


def drawn(shape: tuple[int, ...], bounds: Bounds | None, **fields: object) -> dict[str, object]:
    """Return what a file says of a tensor: its shape, its slice, None where that is all of it, and other fields."""
    part = bounds is not None and bounds != tuple((0, size) for size in shape)
    return {"shape": [*shape], "slice": text_of(bounds) if part and bounds else None, **given(**fields)}


def recipe_of(fields: Mapping[str, Any]) -> dict[str, object]:
    """Return the scheme, by its own name, and all its parameters; of a scheme that is not known here, those given."""
    scheme = SCHEMES.get(fields.get("scheme", ""))
    parameters = given(**{name: value for name, value in fields.items() if name not in _OTHERS})
    axes = {name: _axes(value) for name, value in parameters.items() if name.endswith("_axis")}
    omitted = {name: None for name, default in _OMITTED.items() if {**parameters, **axes}.get(name) == default}
    return {**given(scheme=scheme), **DEFAULTS.get(scheme or "", {}), **parameters, **axes, **omitted}


def _axes(value: Any) -> object:
    """Return an axis, or several, as the metadata has them: sorted. What is no list of integers is left as it is."""
    try:
        return tuple(sorted(int(axis) for axis in map(str, _parts(value)) if axis))
    except (TypeError, ValueError):
        return value


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields of which something is said."""
    return {name: value for name, value in fields.items() if value is not None}


class Recipes:
    """The schemes and parameters of some rules, of which a tensor has one. Layers are alike: what was found is kept."""

    def __init__(self, rules: Iterable[Mapping[str, Any]]):
        self._recipes = [recipe_of(rule) for rule in rules]
        self._found: set[str] = set()

    def mismatches(self, tensor: Mapping[str, Any], path: str) -> Iterator[Mismatch]:
        """Yield that a tensor of a file, which was left to a rule, has the scheme and the parameters of none."""
        said = {**recipe_of(tensor), "scheme": tensor.get("scheme")}
        if repr(said) in self._found:
            return
        if any(not any(mismatches(recipe, tensor)) for recipe in self._recipes):
            self._found.add(repr(said))
        else:
            yield Mismatch(path, "what one of the rules says", said)


def mismatches(asked: Mapping[str, object], got: object, path: str = "") -> Iterator[Mismatch]:
    """Yield the fields below ``path`` that are not as asked. Fields that were not asked for may be anything."""
    if not isinstance(got, Mapping):
        yield Mismatch(path, dict(asked), got)
        return
    for field, value in asked.items():
        there = got.get(field)
        if value != there and not is_same(value, there):
            yield Mismatch(f"{path}.{field}".lstrip("."), value, there)


def is_same(asked: object, got: object) -> bool:
    """Whether an answer has the value that was asked for, however that was written: 1, 1.0 and "1" are one number."""
    if isinstance(asked, OneOf):
        return any(is_same(value, got) for value in asked.values)
    if asked is None or got is None:
        return asked is got
    if isinstance(got, list):
        parts = _parts(asked)
        return len(parts) == len(got) and all(map(is_same, parts, got))
    if isinstance(got, bool):
        return str(asked).lower() in _WORDS[got]
    if isinstance(got, str):
        return str(asked).lower() == got.lower()  # as torch, the server takes mode=FAN_OUT
    return asked == got or _is_same_float(asked, got)


def _parts(asked: object) -> Sequence[object]:
    """Return the elements of a list, which stands in a query as ``512,784``."""
    if isinstance(asked, str):
        return asked.split(",")
    return asked if isinstance(asked, Sequence) else (asked,)


def _is_same_float(asked: Any, got: Any) -> bool:
    """Whether two numbers, or what is written as one, are the same double."""
    try:
        return float(asked) == float(got) and not (isinstance(asked, int) and isinstance(got, int))
    except (TypeError, ValueError, OverflowError):
        return False
