"""Specs: what names a tensor or several, how they are asked for, and whether a file is the one that was meant."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, SupportsIndex

from weightwell.dtypes import BY_CODE, DType, dtype_of
from weightwell.exceptions import InvalidFile
from weightwell.literals import SeedLike
from weightwell.request import Request, asking, asking_for_manifest
from weightwell.safetensors import Entry
from weightwell.slices import Bounds, SliceLike, bounds_of, text_of


class Sizes(Protocol):
    """An array of integers, of one dimension."""

    @property
    def ndim(self) -> int:
        """Its number of dimensions: 1."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over its integers."""


ShapeLike = SupportsIndex | Sequence[SupportsIndex] | Sizes

DEFAULT_NAME = "weight"  # of a tensor without a name; the server's default


class FileSpec(Protocol):
    """What names a file."""

    @property
    def label(self) -> str:
        """A few words for a progress bar."""

    @property
    def request(self) -> Request:
        """The request that draws it."""

    def check(self, entries: Mapping[str, Entry]) -> int:
        """Return the size in bytes of the data of a file with these entries; raise ``InvalidFile`` if it is another."""


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
        seed: SeedLike = 0,
        dtype: object = "float32",
        name: str | None = None,
        generator: str | None = None,
        slice: SliceLike | None = None,  # noqa: A002 - the field's name
        **parameters: Any,
    ) -> "TensorSpec":
        """Read the arguments of ``Client.init``; raise TypeError or ValueError for one that cannot be sent."""
        sizes = sizes_of(shape)
        return cls(
            shape=sizes,
            scheme=scheme,
            seed=seed_of(seed),
            dtype=dtype_of(dtype),
            name=name,
            generator=generator,
            bounds=None if slice is None else bounds_of(slice, sizes),
            parameters={key: plain_of(value) for key, value in parameters.items()},
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


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the file: the shape of what is drawn, and its dtype where that is not left to a rule."""

    extent: tuple[int, ...]
    dtype: DType | None

    def matches(self, entry: Entry) -> bool:
        """Whether an entry of a header is this tensor."""
        found = BY_CODE.get(entry.dtype)
        return (
            found is not None
            and self.dtype in {None, found}
            and entry.shape == self.extent
            and entry.stop - entry.start == prod(self.extent) * found.itemsize
        )


@dataclass(frozen=True, slots=True)
class ManifestSpec:
    """What a manifest said when it was asked for, and whether a file is the one that was meant.

    ``stored`` has the tensors of the file, ``aliases`` the other names that they have.
    """

    document: Mapping[str, Any]
    stored: Mapping[str, Stored]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "ManifestSpec":
        """Read a manifest as it is sent: ``Manifest.document()``."""
        tensors = document["tensors"]
        return cls(
            document,
            {name: Stored(_extent(each), _dtype(each, document)) for name, each in tensors.items() if "shape" in each},
            {name: each["alias"] for name, each in tensors.items() if "alias" in each},
        )

    @property
    def dtype(self) -> DType:
        """The dtype of all that do not say otherwise."""
        return dtype_of(self.document["dtype"])

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they were given."""
        return tuple(self.document["tensors"])

    @property
    def label(self) -> str:
        """A few words for a progress bar."""
        return f"{len(self.stored)} tensors"

    @property
    def request(self) -> Request:
        """The request that draws the file."""
        return asking_for_manifest("init", self.document)

    def check(self, entries: Mapping[str, Entry]) -> int:
        """Return the size in bytes of the data of a file with these entries; raise ``InvalidFile`` if it is another."""
        if unlike := sorted(entries.keys() ^ self.stored.keys()):
            raise InvalidFile(f"asked for {len(self.stored)} tensors; the file lacks, or has without being asked: "
                              f"{', '.join(unlike[:5])}{', ...' if unlike[5:] else ''}")  # fmt: skip
        for name, expected in self.stored.items():
            if not expected.matches(entries[name]):
                kind = expected.dtype.name if expected.dtype else "any dtype"
                raise InvalidFile(f"{name}: expected {kind} of shape {list(expected.extent)}, got {entries[name]}")
        return _size(entries.values())


def _size(entries: Iterable[Entry]) -> int:
    """Return where the data ends; raise ``InvalidFile`` unless each tensor begins where the one before it ends."""
    end = 0
    for entry in sorted(entries, key=operator.attrgetter("start", "stop")):
        if entry.start != end:
            raise InvalidFile(f"the data of a tensor begins at {entry.start}, and that of the one before ends at {end}")
        end = entry.stop
    return end


def _extent(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what is drawn of a tensor."""
    shape = tuple(fields["shape"])
    return tuple(stop - start for start, stop in bounds_of(fields["slice"], shape)) if "slice" in fields else shape


def _dtype(fields: Mapping[str, Any], document: Mapping[str, Any]) -> DType | None:
    """Return the dtype of a tensor; None where a rule may have another."""
    own = fields.get("scheme") not in {None, "reset_parameters"}
    if "dtype" not in fields and not own and document.keys() & {"rules", "preset"}:
        return None
    return dtype_of(fields.get("dtype", document["dtype"]))


def sizes_of(shape: ShapeLike) -> tuple[int, ...]:
    """Return a shape as a tuple: ``8`` is ``(8,)``. Arrays of one dimension are sequences, too."""
    several = isinstance(shape, Sequence) or getattr(shape, "ndim", 0) == 1
    sizes: Any = shape if several else (shape,)
    return tuple(integer_of("shape", size) for size in sizes)


def seed_of(seed: SeedLike) -> int:
    """Return a seed, which may be decimal digits: many libraries of JSON have no exact integers above 2^53."""
    if isinstance(seed, str) and seed.isascii() and seed.isdecimal():
        return int(seed)
    return integer_of("seed", seed)


def integer_of(field: str, value: object) -> int:
    """Return an integer of any kind as an int; a bool is none, because a server could no longer see that it was one."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{field} takes integers, got {value!r}")


def plain_of(value: Any) -> Any:
    """Return the Python number in a numpy scalar or a tensor of one element, and anything else as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError) as error:  # torch's, numpy's
        raise ValueError(f"expected one number: {error}") from None
