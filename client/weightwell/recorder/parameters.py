"""Parameters: what was recorded of each tensor of a model, as the fields of a manifest.

A tensor that was drawn has the scheme of its law, with parts where rectangles of it were written apart. A tensor that
was computed has numbers, which are evaluated when the manifest is sent.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import prod
from typing import NamedTuple

import torch

from weightwell.recorder.evaluation import contents
from weightwell.recorder.laws import Constant, Fields
from weightwell.recorder.mode import Recorder
from weightwell.recorder.storages import (
    Computed,
    Content,
    Copied,
    Draw,
    Drawn,
    Fixed,
    Line,
    Literal,
    Operation,
    Storage,
    Taken,
    Unknown,
    Unwritten,
    View,
    Write,
)

Bounds = tuple[tuple[int, int], ...]

Key = tuple[Draw, tuple[object, ...]]
"""Which random numbers: a draw, and which part of it."""

# Operators that compute numbers of those that they change.
_ARITHMETIC = {"add", "sub", "mul", "div", "neg", "pow", "sqrt", "exp", "log", "lerp", "addcmul", "addcdiv", "clamp"}

# Most parts of a tensor, as the server has it.
MAX_PARTS = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a tensor, and the content that was written there. ``in_order`` says that its rows were."""

    bounds: Bounds
    content: Content
    in_order: bool
    line: Line | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def key(self) -> Key:
        """Which random numbers it has, in which order, if it has any."""
        order = () if self.in_order else ("in another order",)
        return self.content.draw, (*self.content.key, *order)  # type: ignore[union-attr]

    @property
    def text(self) -> str:
        """Its bounds as a manifest has them."""
        return ",".join(f"{start}:{stop}" for start, stop in self.bounds)


class Slab(NamedTuple):
    """In the key of a rectangle: which slab it is of numbers of some sizes, along an axis."""

    axis: int
    place: int
    sizes: tuple[int, ...]


class Stream(NamedTuple):
    """Where the numbers of a draw come from: a name, and if that is a tensor's, its sizes and its dtype."""

    name: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None


@dataclass
class Recorded:
    """What was recorded of one tensor.

    ``fields``: the scheme with its parameters, and parts; None if it is ``computed``, or if there is a ``problem``, a
    sentence that says why nothing can be said of it. ``lines``: the lines of code that wrote it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    content: Content
    fields: Fields | None = None
    problem: str | None = None
    lines: tuple[Line, ...] = ()
    parts: tuple[Part, ...] = ()
    """Rectangles, the first of which is all of the tensor."""

    @property
    def where(self) -> str:
        """The line of code that wrote it last."""
        return str(self.lines[-1]) if self.lines else "a line that is not known"

    @property
    def is_computed(self) -> bool:
        """Whether its numbers are those of operations."""
        return self.fields is None and self.problem is None

    @cached_property
    def has_draws(self) -> bool:
        """Whether random numbers are among what it was computed from."""
        return any(isinstance(each, Drawn) for each in contents(self.content))


def recorded(recorder: Recorder, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Recorded], dict[Key, Stream]]:
    """Return what was recorded of each of some tensors, which have names, and the streams of their draws."""
    found = {name: _recorded(recorder, name, tensor) for name, tensor in tensors.items()}
    keys = Counter((draw, key) for each in found.values() for draw, key in _keys(each))
    tensors_of = Counter(draw for each in found.values() for draw in {draw for draw, _ in _keys(each)})
    for each in found.values():
        if each.fields is None and each.problem is None and _is_drawn(each):
            alone = all(keys[draw, key] == 1 == tensors_of[draw] for draw, key in _keys(each))
            each.fields = _fields(each, alone=alone)
    return found, _share([*found.values()])


def _recorded(recorder: Recorder, name: str, tensor: torch.Tensor) -> Recorded:
    content = _constant_if_equal(recorder.read(tensor))
    storage = recorder.storage(tensor)
    new = Recorded(name, tuple(tensor.shape), tensor.dtype, content)
    if storage is not None:
        new.lines = tuple(dict.fromkeys(write.line for write in storage.writes if write.line is not None))
    if not tensor.numel():
        new.fields = {"scheme": "zeros"}
        return new
    new.parts = _parts(tensor, content, storage)
    if not _is_drawn(new):
        new.problem = _problem(new)
    return new


def _constant_if_equal(content: Content) -> Content:
    """Return a constant for numbers in memory that are all equal, and any other content as it is."""
    if isinstance(content, Literal) and content.tensor.numel() and not content.tensor.is_complex():
        first = content.tensor.flatten()[0]
        if bool((content.tensor == first).all()):
            return Fixed(Constant(float(first)))
    return content


def _problem(each: Recorded) -> str | None:
    """Return why a tensor that is not drawn has no numbers, or None."""
    for content in contents(each.content):
        if isinstance(content, Unknown):
            return content.why
        if isinstance(content, Computed) and _needs_memory(content.operation):
            return "it is computed from memory that was never written"
    if isinstance(each.content, Unwritten):
        return "it was never written"
    if each.parts and isinstance(each.parts[0].content, Unwritten):
        whole = tuple((0, size) for size in each.shape)
        if _rest([whole], [part.bounds for part in each.parts[1:]]):
            return "some of its elements were never written"
    return None


def _needs_memory(operation: Operation) -> bool:
    """Whether an operation computes numbers of a tensor that was never written."""
    schema = operation.function._schema
    name = schema.name.partition("::")[2]
    if schema.is_mutable and not (name.endswith("_") and name.removesuffix("_") in _ARITHMETIC):
        return False
    return any(isinstance(each.content, Unwritten) and prod(each.sizes) for each in operation.operands)


def _parts(tensor: torch.Tensor, content: Content, storage: Storage | None) -> tuple[Part, ...]:
    """Return the rectangles that a tensor was written in, the earliest first; none if it was not by rectangles."""
    whole = tuple((0, size) for size in tensor.shape)
    line = storage.writes[-1].line if storage is not None else None
    if not isinstance(content, Copied):
        return (Part(whole, content, True, line),)
    view = content.view
    if not view.is_contiguous:
        return ()
    parts: list[Part] = []
    for write in content.writes:
        boxes = _boxes(write, view, MAX_PARTS)
        if not boxes:
            return ()
        for part in boxes:
            parts = [each for each in parts if not _contains(part.bounds, each.bounds)]
            parts.append(part)
        if len(parts) > MAX_PARTS:
            return ()
    return tuple(parts)


def _boxes(write: Write, whole: View, most: int) -> list[Part]:
    """Return the rectangles of a tensor that a write covers; none if they are too many, or if they have to be one."""
    if (part := _part(write, whole)) is not None:
        return [part]
    content, view = write.content, write.view
    if not (isinstance(content, Drawn) and content.law.is_elementwise) and not _is_uniform(content):
        return []
    outer = max(range(len(view.sizes)), key=lambda axis: (view.sizes[axis] > 1, view.strides[axis]), default=None)
    if outer is None or not 1 < view.sizes[outer] <= most:
        return []
    sizes, strides = (tuple(of[:outer] + of[outer + 1 :]) for of in (view.sizes, view.strides))
    found: list[Part] = []
    for index in range(view.sizes[outer]):
        slab = View(view.offset + index * view.strides[outer], sizes, strides)
        step = Slab(outer, index, view.sizes)
        piece = replace(content, key=(*content.key, step)) if isinstance(content, Drawn) else content
        boxes = _boxes(Write(slab, piece, write.line), whole, most - len(found))
        if not boxes:
            return []
        found += boxes
    return found


def _part(write: Write, whole: View) -> Part | None:
    """Return the rectangle of a tensor, which is contiguous, that a write covers; None if it is none, or beyond it."""
    view = write.view
    start = view.offset - whole.offset
    last = start + sum((size - 1) * stride for size, stride in zip(view.sizes, view.strides, strict=True))
    if start < 0 or last >= whole.size:
        if view.size >= whole.size and start <= 0 and last >= whole.size - 1 and _is_uniform(write.content):
            return Part(tuple((0, size) for size in whole.sizes), write.content, True, write.line)
        return None
    first, end = _unravel(start, whole.sizes), _unravel(last, whole.sizes)
    bounds = tuple((a, b + 1) for a, b in zip(first, end, strict=True))
    if any(a >= b for a, b in bounds) or prod(b - a for a, b in bounds) != view.size:
        return None
    strides = _strides(whole.sizes)
    box = View(view.offset, tuple(b - a for a, b in bounds), strides).levels()
    dimensions = sorted(zip(view.strides, view.sizes, strict=True), reverse=True)
    ordered = View(view.offset, tuple(size for _, size in dimensions), tuple(step for step, _ in dimensions)).levels()
    if box != ordered:
        return None
    return Part(bounds, write.content, view.levels() == box, write.line)


def _is_uniform(content: Content) -> bool:
    """Whether any part of a content is like any other."""
    return isinstance(content, Unwritten | Unknown) or (
        isinstance(content, Fixed) and isinstance(content.law, Constant)
    )


def _unravel(index: int, sizes: Sequence[int]) -> tuple[int, ...]:
    at = []
    for size in reversed(sizes):
        index, here = divmod(index, size)
        at.append(here)
    return tuple(reversed(at))


def _strides(sizes: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _contains(outer: Bounds, inner: Bounds) -> bool:
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner, strict=True))


# Laws ----------------------------------------------------------------------------------------------------------------


def _is_drawn(each: Recorded) -> bool:
    """Whether a tensor is a base and rectangles with laws, which schemes draw."""
    if not each.parts or len(each.parts) > MAX_PARTS + 1:
        return False
    base, *others = each.parts
    whole = tuple((0, size) for size in each.shape)
    if base.bounds != whole or not all(_has_scheme(part) for part in others) or _repeats(each.parts):
        return False
    return _has_scheme(base) or (bool(others) and not _rest([whole], [part.bounds for part in others]))


def _repeats(parts: Sequence[Part]) -> bool:
    """Whether rectangles of a tensor have some of the same random numbers, which no scheme of theirs says."""
    drawn = [part for part in parts if isinstance(part.content, Drawn)]
    several = {draw for draw, count in Counter(part.key[0] for part in drawn).items() if count > 1}
    groups: dict[Draw, dict[Key, Part]] = {}
    for part in drawn:
        if part.key[0] in several:
            groups.setdefault(part.key[0], {}).setdefault(part.key, part)
    for keys in groups.values():
        base = parts[0] if parts[0].content in [part.content for part in keys.values()] else None
        left = [part for part in keys.values() if base is None or (part is not base and not _is_in_place(part, base))]
        if base is not None and left:
            return True
        if any(may_overlap(one.key[1], two.key[1]) for one, two in combinations(left, 2)):
            return True
    return False


def _is_in_place(part: Part, base: Part) -> bool:
    """Whether a rectangle has numbers of those of the whole tensor that it hides."""
    steps, own = part.content.key, base.content.key  # type: ignore[union-attr]
    if len(steps) <= len(own) or steps[: len(own)] != own or not base.in_order:
        return False
    taken = steps[len(own)]
    if not isinstance(taken, Taken) or taken.whole.sizes != base.shape or not taken.whole.is_contiguous:
        return False
    place = _part(Write(taken.view, part.content, None), taken.whole)
    return place is not None and place.bounds == part.bounds


def may_overlap(one: tuple[object, ...], two: tuple[object, ...]) -> bool:
    """Whether two keys of a draw may have some of the same numbers."""
    for a, b in zip(one, two, strict=False):
        if a == b:
            continue
        if isinstance(a, Slab) and isinstance(b, Slab):
            return a.axis != b.axis or a.sizes != b.sizes
        if isinstance(a, Taken) and isinstance(b, Taken) and a.whole == b.whole:
            return not _is_disjoint(a.view, b.view, a.whole)
        return True
    return True


def _is_disjoint(one: View, two: View, whole: View) -> bool:
    """Whether two views have no element in common, as far as it is seen from their rectangles in a whole."""
    if one.stop <= two.offset or two.stop <= one.offset:
        return True
    if not whole.is_contiguous:
        return False
    first, second = (_part(Write(view, Unwritten(), None), whole) for view in (one, two))
    return (
        first is not None
        and second is not None
        and any(b <= c or d <= a for (a, b), (c, d) in zip(first.bounds, second.bounds, strict=True))
    )


def _has_scheme(part: Part) -> bool:
    if not isinstance(part.content, Drawn | Fixed):
        return False
    law = part.content.law
    if not part.in_order and not law.is_elementwise:
        return False
    return law.fields(part.shape) is not None


def _rest(boxes: list[Bounds], taken: Sequence[Bounds]) -> list[Bounds]:
    """Return what is left of rectangles when others are taken away, as rectangles."""
    for other in taken:
        boxes = [left for box in boxes for left in _without(box, other)]
    return boxes


def _without(box: Bounds, other: Bounds) -> list[Bounds]:
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, other, strict=True))
    if any(a >= b for a, b in common):
        return [box]
    left: list[Bounds] = []
    for axis, ((a, b), (c, d)) in enumerate(zip(box, common, strict=True)):
        spans = ((start, stop) for start, stop in ((a, c), (d, b)) if start < stop)
        left.extend((*common[:axis], span, *box[axis + 1 :]) for span in spans)
    return left


def _keys(each: Recorded) -> list[Key]:
    """Return which random numbers the rectangles of a tensor have."""
    return [part.key for part in each.parts if isinstance(part.content, Drawn)]


def _fields(each: Recorded, *, alone: bool) -> Fields:
    """Return the scheme of a tensor that is drawn, with its parts.

    Rectangles that cover it and have one law are one, if the tensor is ``alone`` in having each of their numbers.
    """
    base, *others = each.parts
    if alone and others and not _has_scheme(base) and (law := _common_law(others)) is not None:
        return dict(law)
    fields: Fields = _scheme(base) if _has_scheme(base) else {"scheme": "zeros"}
    if others:
        fields["parts"] = [{"slice": part.text, **_scheme(part)} for part in others]
    return fields


def _scheme(part: Part) -> Fields:
    return dict(part.content.law.fields(part.shape))  # type: ignore[arg-type, union-attr]


def _common_law(parts: Sequence[Part]) -> Fields | None:
    """Return the law that all rectangles have, if each of them is drawn by itself; None if they have several."""
    laws = {repr(part.content.law) for part in parts}  # type: ignore[union-attr]
    first = parts[0].content.law  # type: ignore[union-attr]
    return _scheme(parts[0]) if len(laws) == 1 and first.is_elementwise else None


# Draws that several tensors share ------------------------------------------------------------------------------------


def _share(found: Sequence[Recorded]) -> dict[Key, Stream]:
    """Return which stream every draw comes from, and name it in the fields of all but the tensor that has its name.

    Copies of a tensor have its numbers.
    """
    streams: dict[Key, Stream] = {}
    owners: dict[Draw, dict[tuple[object, ...], Recorded]] = {}
    for each in found:
        for part, content, fields in _drawn_parts(each):
            owned = owners.setdefault(content.draw, {})
            _, key = part.key
            owner = next((other for k, other in owned.items() if other is not each and may_overlap(k, key)), None)
            known = streams.get(part.key)
            if known is not None and _is_alike(known, part, content):
                fields["stream"] = known.name
            elif known is not None:
                each.problem = f"it is a copy of {known.name} in another shape"
            elif owner is not None:
                each.problem = f"it holds a part of {owner.name}, or its negative, and a manifest has whole copies only"
            else:
                name = each.name if part is each.parts[0] else f"{each.name}[{part.text}]"
                streams[part.key] = Stream(name, part.shape, each.dtype)
                owned[key] = each
    _name_computed(found, streams)
    for each in found:
        if each.problem is not None:
            each.fields = None
    return streams


def _name_computed(found: Sequence[Recorded], streams: dict[Key, Stream]) -> None:
    """Name the streams of draws from which tensors are computed, of all their numbers if several parts are needed."""
    draws = {
        each.name: [content for content in contents(each.content) if isinstance(content, Drawn)]
        for each in found
        if each.is_computed
    }
    keys: dict[Draw, set[tuple[object, ...]]] = {}
    for content in (content for contained in draws.values() for content in contained):
        keys.setdefault(content.draw, set()).add(content.key)
    several = {draw for draw, own in keys.items() if len(own) > 1 and (draw, ()) not in streams}
    mixed = {draw for draw in several if any((draw, key) in streams for key in keys[draw])}
    for each in found:
        for number, content in enumerate(draws.get(each.name, ())):
            draw = content.draw
            if draw in mixed:
                each.problem = "it is computed from random numbers of which another tensor has a part"
            elif draw in several:
                streams.setdefault((draw, ()), Stream(f"{each.name}#{number}", None, None))
            elif (draw, ()) not in streams:
                streams.setdefault((draw, content.key), Stream(f"{each.name}#{number}", None, None))


def _drawn_parts(each: Recorded) -> Iterator[tuple[Part, Drawn, Fields]]:
    """Yield the rectangles of a tensor that have random numbers of their own, each with its fields."""
    if each.fields is None:
        return
    base, *others = each.parts or (None,)
    for part, fields in zip((base, *others), (each.fields, *each.fields.get("parts", ())), strict=False):
        if part is not None and isinstance(part.content, Drawn):
            yield part, part.content, fields


def _is_alike(stream: Stream, part: Part, content: Drawn) -> bool:
    """Whether a stream gives the same numbers to a rectangle as to the tensor that it is named after."""
    if stream.shape is None or stream.shape == part.shape:
        return True
    return content.law.is_elementwise and prod(stream.shape) == prod(part.shape)
