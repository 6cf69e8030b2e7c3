"""Specs: descriptions of one or several tensors, their requests, and the check that a file matches."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

from weightwell.answers import (
    Mismatch,
    OneOf,
    Recipes,
    drawn,
    mismatches,
    own_stream,
    part_mismatches,
    raise_first,
    recipe_of,
    spec_of,
)
from weightwell.dtypes import BY_CODE, DType, dtype_of
from weightwell.exceptions import InvalidFile
from weightwell.literals import SeedLike
from weightwell.request import Request, asking, asking_for_manifest
from weightwell.safetensors import Entry, Header
from weightwell.slices import Bounds, SliceLike, bounds_of, text_of


class Sizes(Protocol):
    """An array of integers, of one dimension."""

    @property
    def ndim(self) -> int:
        """Its number of dimensions: 1."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over its integers."""


ShapeLike = SupportsIndex | Sequence[SupportsIndex] | Sizes

DEFAULT_NAME = "weight"  # the server's default name of a tensor

# The server's defaults.
DEFAULT_NAME, DEFAULT_SEED, DEFAULT_DTYPE, DEFAULT_GENERATOR = "weight", 0, "float32", "philox"

# The scheme that means: as the tensor's module initializes it.
RESET_PARAMETERS = "reset_parameters"


class FileSpec(Protocol):
    """The description of a file."""

    @property
    def label(self) -> str:
        """A short label for a progress bar."""

    @property
    def request(self) -> Request:
        """The request that draws it."""

    def accept(self, header: Header) -> int:
        """Return the size of the data in bytes; raise ``InvalidFile`` if the header does not match this spec."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: the fields of ``/init``. ``bounds`` are those of its slice, None for the whole tensor.

    ``stream`` is the name that the random words are derived from, None for the tensor's own.
    """

    shape: tuple[int, ...]
    scheme: str
    seed: int
    dtype: DType
    name: str | None
    generator: str | None
    bounds: Bounds | None
    parameters: Mapping[str, Any]
    stream: str | None = None

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
        stream: str | None = None,
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
            parameters={key: parameter_of(key, value) for key, value in parameters.items()},
            stream=stream,
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of the slice, or of the whole tensor."""
        if self.bounds is None:
            return self.shape
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the slice or tensor."""
        return self.dtype.nbytes(self.extent)

    @property
    def label(self) -> str:
        """A few words for a progress bar: ``kaiming_normal [512, 784] float32``."""
        return f"{self.scheme} {list(self.extent)} {self.dtype.name}"

    @property
    def request(self) -> Request:
        """The request for the tensor. If the name or the generator is None, the server chooses its default."""
        return asking(
            "init",
            shape=self.shape,
            scheme=self.scheme,
            seed=self.seed,
            dtype=self.dtype.name,
            name=self.name,
            generator=self.generator,
            slice=None if self.bounds is None else text_of(self.bounds),
            stream=self.stream,
            **self.parameters,
        )

    def accept(self, header: Header) -> int:
        """Return the size in bytes of the data of a file with this header; raise ``InvalidFile`` if it is another."""
        raise_first(self.mismatches(spec_of(header.metadata)), InvalidFile)
        return self.check(header.entries)

    def mismatches(self, spec: Mapping[str, Any]) -> Iterator[Mismatch]:
        """Yield in what the spec of a file, or of a plan, is not as asked."""
        tensors = spec["tensors"]
        name = self.name or DEFAULT_NAME
        if [*tensors] != [name]:
            yield Mismatch("name", name, ", ".join(tensors))
            return
        stream = own_stream({"stream": self.stream}, name)
        asked = drawn(self.shape, self.bounds, stream=stream, dtype=self.dtype.name, seed=self.seed)
        yield from mismatches({**asked, **recipe_of({**self.parameters, "scheme": self.scheme})}, tensors[name])
        yield from part_mismatches({}, name, tensors[name].get("parts"))
        yield from mismatches({"generator": self.generator or DEFAULT_GENERATOR}, spec)

    def check(self, entries: Mapping[str, Entry]) -> int:
        """Return the size in bytes of the data of a file with these entries; raise ``InvalidFile`` if it is another."""
        expected = Entry(self.dtype.code, self.extent, 0, self.nbytes)
        if list(entries.values()) != [expected] or self.name not in {None, *entries}:
            raise InvalidFile(f"expected the tensor {self.name or ''} {expected}, got {dict(entries)}")
        return self.nbytes


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the file: the shape of its slice, and its dtype, or None if a rule may decide it."""

    extent: tuple[int, ...]
    dtype: DType | None

    def matches(self, entry: Entry) -> bool:
        """Whether an entry of a header is this tensor."""
        found = BY_CODE.get(entry.dtype)
        return (
            found is not None
            and self.dtype in {None, found}
            and entry.shape == self.extent
            and entry.stop - entry.start == found.nbytes(self.extent)
        )


@dataclass(frozen=True, slots=True)
class ManifestSpec:
    """A manifest at the moment of the request, and the check that a file matches it.

    ``stored`` has the tensors of the file, ``aliases`` their other names.
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
        """The dtype of tensors without their own dtype."""
        return dtype_of(self.document.get("dtype", DEFAULT_DTYPE))

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

    def accept(self, header: Header) -> int:
        """Return the size in bytes of the data of a file with this header; raise ``InvalidFile`` if it is another."""
        raise_first(self.mismatches(spec_of(header.metadata)), InvalidFile)
        return self.check(header.entries)

    def mismatches(self, spec: Mapping[str, Any]) -> Iterator[Mismatch]:
        """Yield in what the spec of a file, or of a plan, is not as asked.

        The server decides which rule applies to a tensor. So a tensor without a scheme may have the scheme of any rule,
        and any scheme at all if there is a preset or a rule with ``reset_parameters``.
        """
        asked, tensors = self.document["tensors"], spec["tensors"]
        if unlike := sorted(asked.keys() ^ tensors.keys()):
            yield Mismatch(f"tensors.{unlike[0]}", asked.get(unlike[0]), tensors.get(unlike[0]))
            return
        rules = self._rules()
        for name, fields in asked.items():
            yield from mismatches(self._asked(name, fields), tensors[name], f"tensors.{name}")
            yield from part_mismatches(fields, name, tensors[name].get("parts"))
            if rules is not None and _needs_rule(fields):
                yield from rules.mismatches(tensors[name], f"tensors.{name}")
        yield from mismatches({"generator": self.document.get("generator", DEFAULT_GENERATOR)}, spec)

    def _asked(self, name: str, fields: Mapping[str, Any]) -> dict[str, object]:
        """Return the values that a tensor with these fields must have in the answer, without its parts."""
        if "alias" in fields:
            return dict(fields)
        shape = tuple(fields["shape"])
        bounds = bounds_of(fields["slice"], shape) if "slice" in fields else None
        dtype = _dtype(fields, self.document)
        stream = own_stream(fields, name)
        asked = drawn(shape, bounds, stream=stream, dtype=dtype and dtype.name, seed=self._seed(fields))
        left_open = _needs_rule(fields) or fields["scheme"] == RESET_PARAMETERS
        return asked if left_open else {**asked, **recipe_of(fields)}

    def _seed(self, fields: Mapping[str, Any]) -> object:
        """Return the seed of a tensor, or all seeds that a rule may give it."""
        common = self.document.get("seed", DEFAULT_SEED)
        if "seed" in fields or not _needs_rule(fields):
            return fields.get("seed", common)
        return OneOf((common, *(rule["seed"] for rule in self.document.get("rules", ()) if "seed" in rule)))

    def _rules(self) -> "Recipes | None":
        """Return the schemes of the rules, or None if a preset or a module may decide the scheme."""
        rules = self.document.get("rules", [])
        if "preset" in self.document or any(rule.get("scheme") == RESET_PARAMETERS for rule in rules):
            return None
        return Recipes(rules)

    def check(self, entries: Mapping[str, Entry]) -> int:
        """Return the size in bytes of the data of a file with these entries; raise ``InvalidFile`` if it is another."""
        if unlike := sorted(entries.keys() ^ self.stored.keys()):
            raise InvalidFile(f"requested {len(self.stored)} tensors; these are missing or were not requested: "
                              f"{', '.join(unlike[:5])}{', ...' if unlike[5:] else ''}")  # fmt: skip
        for name, expected in self.stored.items():
            if not expected.matches(entries[name]):
                kind = expected.dtype.name if expected.dtype else "any dtype"
                raise InvalidFile(f"{name}: expected {kind} of shape {list(expected.extent)}, got {entries[name]}")
        return _size(entries.values())


def _needs_rule(fields: Mapping[str, Any]) -> bool:
    """Whether a tensor of a manifest leaves its scheme to a rule."""
    return "scheme" not in fields and "alias" not in fields


def _size(entries: Iterable[Entry]) -> int:
    """Return the end of the data; raise ``InvalidFile`` if there are gaps or overlaps between the tensors."""
    end = 0
    for entry in sorted(entries, key=operator.attrgetter("start", "stop")):
        if entry.start != end:
            raise InvalidFile(f"the data of a tensor begins at {entry.start}, and that of the one before ends at {end}")
        end = entry.stop
    return end


def _extent(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a tensor's slice, or of the whole tensor."""
    shape = tuple(fields["shape"])
    return tuple(stop - start for start, stop in bounds_of(fields["slice"], shape)) if "slice" in fields else shape


def _dtype(fields: Mapping[str, Any], document: Mapping[str, Any]) -> DType | None:
    """Return the dtype of a tensor, or None if a rule or the tensor's module may decide it."""
    by_rule = "scheme" not in fields and document.keys() & {"rules", "preset"}
    if "dtype" not in fields and (by_rule or fields.get("scheme") == RESET_PARAMETERS):
        return None
    return dtype_of(fields.get("dtype", document.get("dtype", DEFAULT_DTYPE)))


def sizes_of(shape: ShapeLike) -> tuple[int, ...]:
    """Return a shape as a tuple: ``8`` is ``(8,)``. Arrays of one dimension are sequences, too."""
    several = isinstance(shape, tuple | Sequence) or getattr(shape, "ndim", 0) == 1
    sizes: Any = shape if several else (shape,)
    return tuple(integer_of("shape", size) for size in sizes)


def seed_of(seed: SeedLike) -> int:
    """Return a seed, which may be a decimal string: many JSON libraries have no exact integers above 2^53."""
    if isinstance(seed, str) and seed.isascii() and seed.isdecimal():
        return int(seed)
    return integer_of("seed", seed)


def integer_of(field: str, value: object) -> int:
    """Return an integer of any type as an int; raise TypeError for a bool, which the server would not recognise."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{field} takes integers, got {value!r}")


def parameter_of(name: str, value: Any) -> Any:
    """Return a parameter of a scheme as JSON has it: ``values`` of any shape as a list, others as they are."""
    if name == "values" and hasattr(value, "reshape"):
        value = value.reshape(-1).tolist()
    if isinstance(value, list | tuple):
        return [plain_of(each) for each in value]
    return plain_of(value)


def plain_of(value: Any) -> Any:
    """Convert a numpy scalar or a tensor of one element to a Python number; return anything else unchanged."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError) as error:  # torch's, numpy's
        raise ValueError(f"expected one number: {error}") from None
