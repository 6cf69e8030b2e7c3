"""Storages: what has been written into the memory of a tensor, symbolically.

A storage is a list of writes, the earliest first. Each write has a view, which says which elements it covers, and the
content that it gives them: a law with the draw that it belongs to, the result of an operation, or nothing yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch

from weightwell.recorder.laws import Constant, Law


class View(NamedTuple):
    """Which elements of a storage a tensor has, as torch describes it."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "View":
        """Return the view of a tensor."""
        return cls(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.sizes)

    @property
    def stop(self) -> int:
        """The first position of the storage behind all elements."""
        reach = sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        return self.offset + (reach + 1 if self.size else 0)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are one run of the storage, in row-major order."""
        return len(levels := self.levels()) == 1 and levels[0][1] == 1

    def levels(self) -> tuple[tuple[int, int], ...]:
        """Return ``(size, stride)`` of the dimensions, merged where they form one, the outermost first."""
        return _levels(self.sizes, self.strides)

    @property
    def is_overlapping(self) -> bool:
        """Whether elements share memory, or may do so."""
        return _is_overlapping(self.sizes, self.strides)

    def is_same(self, other: "View") -> bool:
        """Whether two views have the same elements in the same order."""
        return self == other or (self.offset == other.offset and self.levels() == other.levels())


# Models have few shapes, and many tensors of each.
@lru_cache(4096)
def _levels(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    merged = [(1, 1)]
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        count, inner = merged[-1]
        if count == 1 and len(merged) == 1:
            merged[-1] = (size, stride)
        elif stride == count * inner:
            merged[-1] = (size * count, inner)
        else:
            merged.append((size, stride))
    return tuple(reversed(merged))


@lru_cache(4096)
def _is_overlapping(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    reach = 0
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size > 1 and stride <= reach:
            return prod(sizes) > 0
        reach += (size - 1) * stride
    return False


class Line(NamedTuple):
    """A line of code."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(eq=False)
class Draw:
    """One draw of random numbers. Tensors that were copied from one another share it."""


class Taken(NamedTuple):
    """Which elements a content has of another, that was written as ``whole`` into a storage of ``size`` elements."""

    view: View
    whole: View
    size: int


NEGATED = "negated"
"""In the key of a draw: its numbers are the negatives of others."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Random numbers of a law. ``draw`` and ``key`` tell which: those of two contents are equal if both are.

    ``key`` says in steps how they are made of the numbers of the draw: ``Taken``, or ``NEGATED``.
    """

    law: Law
    draw: Draw
    key: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Fixed:
    """Numbers that are given by a law alone: constants, identity matrices."""

    law: Law


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Memory that has not been written."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Numbers that cannot be known: ``why`` says the reason."""

    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """Numbers that are there."""

    tensor: torch.Tensor


@dataclass(eq=False, slots=True)
class Operation:
    """A call of an operator of torch, whose tensors are operands: arguments, or in a list that is an argument."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def operands(self) -> "list[Operand]":
        """The tensors among the arguments."""
        return instances(Operand, self.arguments, self.keywords)

    def call(self, tensor: "Callable[[Operand], torch.Tensor]") -> "Call":
        """Return the arguments with real tensors for the operands."""
        return mapped(Operand, tensor, self.arguments, self.keywords)


Kind = TypeVar("Kind")

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call, and those with keywords."""


def instances(kind: type[Kind], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Kind]:
    """Return the arguments of an operator that are of a type, and those in lists."""
    found: list[Kind] = []
    for each in (*arguments, *keywords.values()):
        if isinstance(each, kind):
            found.append(each)
        elif isinstance(each, list | tuple):
            found += [item for item in each if isinstance(item, kind)]
    return found


def mapped(
    kind: type[Kind], function: Callable[[Kind], Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Call:
    """Return the arguments of an operator with others for those of a type."""

    def new(value: Any) -> Any:
        if isinstance(value, kind):
            return function(value)
        if isinstance(value, list | tuple):
            return [function(each) if isinstance(each, kind) else each for each in value]
        return value

    return tuple(map(new, arguments)), {name: new(value) for name, value in keywords.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What an operation returns, or leaves in the argument that it changes, a position or a keyword."""

    operation: Operation
    output: int | None = None
    changed: int | str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Elements of a storage as it was at some time."""

    size: int
    dtype: torch.dtype
    writes: "tuple[Write, ...]"
    view: View


Content = Drawn | Fixed | Unwritten | Unknown | Literal | Computed | Copied

UNWRITTEN = Unwritten()


class Operand(NamedTuple):
    """A tensor as an argument of an operation: its content at that time."""

    content: Content
    sizes: tuple[int, ...]
    dtype: torch.dtype


class Write(NamedTuple):
    """Elements of a storage that are given a content, by a line of code."""

    view: View
    content: Content
    line: Line | None


@dataclass(slots=True)
class Storage:
    """The memory of tensors: ``size`` elements of a dtype. ``memory`` is torch's own, kept so that it stays the one."""

    memory: Any
    size: int
    dtype: torch.dtype
    writes: tuple[Write, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor, content: Content) -> "Storage":
        """Return the storage of a tensor, all of which has a content."""
        memory = tensor.untyped_storage()
        size = memory.nbytes() // tensor.itemsize
        return cls(memory, size, tensor.dtype, (Write(View(0, (size,), (1,)), content, None),))

    def write(self, view: View, content: Content, line: Line | None) -> None:
        """Give the elements of a view a content."""
        if view.is_overlapping:
            view, content = self._without_overlap(view, content)
        new = Write(view, content, line)
        if view.size >= self.size:
            self.writes = (new,)
        else:
            self.writes = (*(each for each in self.writes if each.view != view), new)

    def _without_overlap(self, view: View, content: Content) -> tuple[View, Content]:
        """Return a view of the same elements, each once, and their content."""
        sizes = tuple(1 if stride == 0 else size for size, stride in zip(view.sizes, view.strides, strict=True))
        single = View(view.offset, sizes, view.strides)
        if single.is_overlapping:
            return View(0, (self.size,), (1,)), Unknown("it was written by a view whose elements share memory")
        if isinstance(content, Fixed) and isinstance(content.law, Constant):
            return single, content
        return single, Unknown("it was written by a view whose elements share memory")

    def read(self, view: View) -> Content:
        """Return the content of the elements of a view."""
        last = self.writes[-1]
        if last.view.is_same(view):
            return last.content
        if last.view.size >= self.size and (part := _restricted(last, view, self.size)) is not None:
            return part
        if view.size == self.size and len(self.writes) == 1 and view.is_contiguous and last.view.is_contiguous:
            return last.content
        return Copied(self.size, self.dtype, self.writes, view)


def _restricted(write: Write, view: View, size: int) -> Content | None:
    """Return the content of some elements of a storage that has one content; None if that takes more than a law."""
    match content := write.content:
        case Fixed(Constant()) | Unwritten() | Unknown():
            return content
        case Drawn(law) if law.is_elementwise and not view.is_overlapping:
            return replace(content, key=(*content.key, Taken(view, write.view, size)))
    return None
