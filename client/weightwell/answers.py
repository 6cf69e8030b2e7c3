"""Answers: a field-by-field check that an answer belongs to its request.

An answer to another request looks complete. A proxy, a cache or a shared connection can mix up two answers, so every
answer is checked. A Weightwell server writes the spec into the metadata of every file, with all defaults. It repeats
the fields of the request in every JSON document.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightwell.exceptions import InvalidFile, UnexpectedResponse
from weightwell.schemes import DEFAULTS, SCHEMES
from weightwell.slices import Bounds, bounds_of, text_of

# Fields of a tensor or a rule that are not parameters of a scheme.
_OTHERS = {"shape", "slice", "stream", "parts", "dtype", "seed", "scheme", "module", "match", "regex"}

# The spellings of a boolean in a query.
_WORDS = {
    True: {"true", "1", "t", "y", "yes", "on"},
    False: {"false", "0", "f", "n", "no", "off"},
}

# The metadata leaves out these parameters at these values.
_OMITTED = {"layout": "torch", "batch_axis": (), "gain_source": "torch"}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field of an answer, such as ``seed``, whose value differs from the request."""

    field: str
    asked: object
    got: object

    def __str__(self) -> str:
        return (
            f"the answer belongs to another request: {self.field}: requested {self.asked!r:.200}, "
            f"got {self.got!r:.200}; look for a proxy or a cache that mixes up answers"
        )


@dataclass(frozen=True, slots=True)
class OneOf:
    """A set of values, each of which is a correct answer."""

    values: tuple[object, ...]

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


def raise_first(mismatches: Iterable[Mismatch], kind: type[UnexpectedResponse] = UnexpectedResponse) -> None:
    """Raise the first mismatch as an exception of this kind, if there is one."""
    for mismatch in mismatches:
        raise kind(str(mismatch))


def spec_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the spec in the metadata of a file: ``generator`` and ``tensors``, by name.

    Raises ``InvalidFile`` if the metadata has no valid spec.
    """
    if "spec" not in metadata:
        raise InvalidFile("the metadata of the file has no spec: this file does not come from a Weightwell server")
    try:
        spec = json.loads(metadata["spec"])
    except (TypeError, ValueError, RecursionError):
        raise InvalidFile("the spec in the metadata of the file is not JSON") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("tensors"), dict):
        raise InvalidFile("the spec in the metadata of the file is not a spec of Weightwell")
    return spec


def drawn(
    shape: tuple[int, ...], bounds: Bounds | None, *, stream: str | None = None, **fields: object
) -> dict[str, object]:
    """Return a tensor's entry in the spec of a file: shape, slice (None for the whole tensor) and other fields.

    ``stream`` is None for the tensor's own name.
    """
    part = bounds is not None and bounds != tuple((0, size) for size in shape)
    return {
        "shape": [*shape],
        "slice": text_of(bounds) if part and bounds else None,
        "stream": stream,
        **given(**fields),
    }


def part_mismatches(fields: Mapping[str, Any], name: str, got: object) -> Iterator[Mismatch]:
    """Yield the differences between the ``parts`` of a tensor in a file and those in its ``fields`` of a manifest."""
    path, asked = f"tensors.{name}.parts", fields.get("parts") or []
    there = got if isinstance(got, list) else [] if got is None else [got]
    if len(asked) != len(there):
        yield Mismatch(path, asked, got)
        return
    for place, (part, each) in enumerate(zip(asked, there, strict=True)):
        text = text_of(bounds_of(part["slice"], tuple(fields["shape"])))
        stream = own_stream(part, f"{fields.get('stream') or name}[{text}]")
        yield from mismatches({"slice": text, "stream": stream, **recipe_of(part)}, each, f"{path}.{place}")


def own_stream(fields: Mapping[str, Any], name: str) -> str | None:
    """Return the stream in the fields of a tensor or a part; None if it is the default, ``name``."""
    stream: str | None = fields.get("stream")
    return None if stream == name else stream


def recipe_of(fields: Mapping[str, Any]) -> dict[str, object]:
    """Return the canonical name of the scheme and all its parameters; for an unknown scheme, only the given ones."""
    scheme = SCHEMES.get(fields.get("scheme", ""))
    parameters = given(**{name: value for name, value in fields.items() if name not in _OTHERS})
    axes = {name: _axes(value) for name, value in parameters.items() if name.endswith("_axis")}
    omitted = {name: None for name, default in _OMITTED.items() if {**parameters, **axes}.get(name) == default}
    return {**given(scheme=scheme), **DEFAULTS.get(scheme or "", {}), **parameters, **axes, **omitted}


def _axes(value: Any) -> object:
    """Return one or several axes sorted, as in the metadata. Anything but integers is returned unchanged."""
    try:
        return tuple(sorted(int(axis) for axis in map(str, _parts(value)) if axis))
    except (TypeError, ValueError):
        return value


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


class Recipes:
    """The schemes and parameters of some rules. A tensor has one of them. Matches are cached, as layers repeat."""

    def __init__(self, rules: Iterable[Mapping[str, Any]]):
        self._recipes = [recipe_of(rule) for rule in rules]
        self._found: set[str] = set()

    def mismatches(self, tensor: Mapping[str, Any], path: str) -> Iterator[Mismatch]:
        """Yield a mismatch if a tensor without its own scheme has the scheme and parameters of no rule."""
        said = {**recipe_of(tensor), "scheme": tensor.get("scheme")}
        if repr(said) in self._found:
            return
        if any(not any(mismatches(recipe, tensor)) for recipe in self._recipes):
            self._found.add(repr(said))
        else:
            yield Mismatch(path, "the scheme of one of the rules", said)


def mismatches(asked: Mapping[str, object], got: object, path: str = "") -> Iterator[Mismatch]:
    """Yield the fields below ``path`` that differ from the request. Fields that it left open may have any value."""
    if not isinstance(got, Mapping):
        yield Mismatch(path, dict(asked), got)
        return
    for field, value in asked.items():
        there = got.get(field)
        if value != there and not is_same(value, there):
            yield Mismatch(f"{path}.{field}".lstrip("."), value, there)


def is_same(asked: object, got: object) -> bool:
    """Whether two values are equal in any spelling: 1, 1.0 and "1" are the same number."""
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
    """Return the elements of a list, which a query writes as ``512,784``."""
    if isinstance(asked, str):
        return asked.split(",")
    return asked if isinstance(asked, Sequence) else (asked,)


def _is_same_float(asked: Any, got: Any) -> bool:
    """Whether two numbers, or their spellings, are the same double."""
    try:
        return float(asked) == float(got) and not (isinstance(asked, int) and isinstance(got, int))
    except (TypeError, ValueError, OverflowError):
        return False
