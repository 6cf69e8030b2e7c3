"""Slices of a tensor, as numpy writes them: ``slice(0, 128)``, ``np.s_[:, 8:16]``, ``"0:128,:"``.

A slice has a start and a stop in every dimension. Steps and single indices are not allowed.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import cast

Index = slice | EllipsisType
SliceLike = str | Index | Sequence[Index]
Bounds = tuple[tuple[int, int], ...]


def bounds_of(index: SliceLike, shape: tuple[int, ...]) -> Bounds:
    """Return ``(start, stop)`` for each dimension of ``shape``: ``0 <= start <= stop <= length`` by Python's rules.

    Dimensions beyond the last one in ``index`` are whole. Raises ValueError if ``index`` is not a slice of ``shape``.
    """
    parts = _expanded(_parsed(index), len(shape))
    return tuple(_bounds(part, length) for part, length in zip(parts, shape, strict=True))


def text_of(bounds: Bounds) -> str:
    """Return the slice as the server reads it: ``"0:128,0:784"``."""
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def chunk(length: int, parts: int, index: int) -> tuple[int, int]:
    """Return the start and stop of part ``index`` of a dimension, divided as by ``torch.chunk``.

    All parts have the same length, except that the last ones may be shorter or empty.
    """
    size = -(-length // parts)
    return min(index * size, length), min((index + 1) * size, length)


def _parsed(index: SliceLike) -> list[Index]:
    """Return the parts of any spelling of an index."""
    if isinstance(index, str):
        return [_part(text.strip()) for text in index.split(",")] if index.strip() else []
    # An int is not a slice; _expanded raises the error.
    return list(cast("Sequence[Index]", index)) if isinstance(index, Sequence) else [index]


def _part(text: str) -> Index:
    """Return one part of the spelling ``"0:128,:"``."""
    if text == "...":
        return ...
    ends = text.split(":")
    try:
        if len(ends) == 2:
            return slice(*(int(end) if end.strip() else None for end in ends))
    except ValueError:
        pass
    raise ValueError(f"each part of a slice must be like 0:128 or :, got {text!r}")


def _expanded(parts: list[Index], rank: int) -> list[slice]:
    """Return one slice for each of ``rank`` dimensions, with ``...`` written out."""
    gap = parts.index(...) if ... in parts else len(parts)
    before, after = parts[:gap], parts[gap + 1 :]
    slices = [*before, *[slice(None)] * (rank - len(before) - len(after)), *after]
    if len(slices) != rank:
        raise ValueError(f"slice must have at most as many parts as the shape has dimensions ({rank}), got {parts}")
    for part in slices:
        if not isinstance(part, slice):
            raise ValueError(f"a slice is made of slices and at most one ..., got {part!r}; for index i write i:i+1")  # noqa: TRY004 - the value of one argument, whatever it is made of
    return slices  # type: ignore[return-value]


def _bounds(part: slice, length: int) -> tuple[int, int]:
    """Return the start and the stop of ``part`` in a dimension of this length."""
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"a slice must have step 1, got {step}; draw it whole and take the step from the result")
    return start, max(start, stop)
