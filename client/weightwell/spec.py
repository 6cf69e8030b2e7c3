"""Specs: what names a tensor, how it is asked for, and whether a file is the one that was meant."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, SupportsIndex

from weightwell.dtypes import DType, dtype_of
from weightwell.exceptions import InvalidFile
from weightwell.request import Request, asking
from weightwell.safetensors import Entry
from weightwell.slices import Bounds, SliceLike, bounds_of, text_of

ShapeLike = SupportsIndex | Sequence[SupportsIndex]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: the fields of ``/init``. ``bounds`` are those of its slice, None for the whole tensor."""

    shape: tuple[int, ...]
    scheme: str
    seed: int
    dtype: DType
    name: str | None
    generator: str | None
    bounds: Bounds | None
    parameters: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        shape: ShapeLike,
        scheme: str,
        *,
        seed: SupportsIndex = 0,
        dtype: object = "float32",
        name: str | None = None,
        generator: str | None = None,
        slice: SliceLike | None = None,  # noqa: A002 - the field's name
        **parameters: Any,
    ) -> "TensorSpec":
        """Read the arguments of ``Client.init``; raise TypeError or ValueError for one that cannot be sent."""
        sizes = _sizes(shape)
        return cls(
            shape=sizes,
            scheme=scheme,
            seed=_integer("seed", seed),
            dtype=dtype_of(dtype),
            name=name,
            generator=generator,
            bounds=None if slice is None else bounds_of(slice, sizes),
            parameters={key: _plain(value) for key, value in parameters.items()},
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of what is drawn: that of the slice, or of the whole tensor."""
        if self.bounds is None:
            return self.shape
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def nbytes(self) -> int:
        """Size in bytes of what is drawn."""
        return prod(self.extent) * self.dtype.itemsize

    @property
    def label(self) -> str:
        """A few words for a progress bar: ``kaiming_normal [512, 784] float32``."""
        return f"{self.scheme} {list(self.extent)} {self.dtype.name}"

    @property
    def request(self) -> Request:
        """The request that draws it. What the caller left open (name, generator) is left to the server."""
        return asking(
            "init",
            shape=self.shape,
            scheme=self.scheme,
            seed=self.seed,
            dtype=self.dtype.name,
            name=self.name,
            generator=self.generator,
            slice=None if self.bounds is None else text_of(self.bounds),
            **self.parameters,
        )

    def check(self, entries: Mapping[str, Entry]) -> int:
        """Return the size in bytes of the data of a file with these entries; raise ``InvalidFile`` if it is another."""
        expected = Entry(self.dtype.code, self.extent, 0, self.nbytes)
        if list(entries.values()) != [expected] or self.name not in {None, *entries}:
            raise InvalidFile(f"expected the tensor {self.name or ''} {expected}, got {dict(entries)}")
        return self.nbytes


def _sizes(shape: ShapeLike) -> tuple[int, ...]:
    """Return a shape as a tuple: ``8`` is ``(8,)``."""
    sizes = shape if isinstance(shape, Sequence) else (shape,)
    return tuple(_integer("shape", size) for size in sizes)


def _integer(field: str, value: SupportsIndex) -> int:
    """Return an integer of any kind as an int; a bool is none, because a server could no longer see that it was one."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{field} takes integers, got {value!r}")


def _plain(value: Any) -> Any:
    """Return the Python number in a numpy scalar or a tensor of one element, and anything else as it is."""
    return value.item() if hasattr(value, "item") else value
