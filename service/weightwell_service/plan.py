"""Plans: a spec with every law, offset and byte count settled, before a number is drawn.

The plan decides everything and generation decides nothing: whatever can be wrong with a request is found here.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from weightwell_service.dtypes import DTYPES, DType
from weightwell_service.exceptions import InvalidSpec, TooLarge
from weightwell_service.laws import Constant, Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_service.regions import Region, Runs
from weightwell_service.safetensors import Entry, header, layout
from weightwell_service.schemes import SCHEMES
from weightwell_service.spec import Spec, TensorSpec

# The safetensors library reads no longer header (its MAX_HEADER_SIZE).
_MAX_HEADER = 100_000_000

# The number of elements and of bytes of a tensor must fit what every reader of the format counts in.
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a file: whose it is, what its elements are, and which of them are wanted.

    ``order`` is its place among the tensors of the spec, and ``offset`` that of its first byte in the file's data.
    """

    name: str
    seed: int
    dtype: DType
    law: Law
    region: Region
    order: int
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements in the file."""
        return self.region.size

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements ``start ... stop - 1`` of the wanted region of a tensor."""

    tensor: PlannedTensor
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return (self.stop - self.start) * self.tensor.dtype.itemsize

    def parts(self, out: memoryview) -> Iterator[tuple[Runs, memoryview]]:
        """Yield the piece as runs of the whole tensor, each with its part of ``out``, which holds the piece."""
        filled = 0
        for runs in self.tensor.region.runs(self.start, self.stop):
            nbytes = runs.size * self.tensor.dtype.itemsize
            yield runs, out[filled : filled + nbytes]
            filled += nbytes


@dataclass(frozen=True)
class Plan:
    """One virtual file: a header, the tensors in the order of the file, and what the bytes depend on.

    ``identity`` says which generator draws, in which version, and whatever else the numbers depend on. It is in the
    header's metadata with the canonical spec, so the header determines every byte of the file, and its digest is the
    file's ``etag``, its strong validator, quoted as HTTP wants it.
    """

    generator: str
    identity: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    etag: str

    @cached_property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self.header) + self.data_nbytes

    @cached_property
    def data_nbytes(self) -> int:
        """Size of the file's data, which follows the header, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield what the bytes ``start ... stop - 1`` of the data hold, both at multiples of 8 bytes or at the end."""
        for tensor in self._between(start, stop):
            size = tensor.dtype.itemsize
            first = max(start - tensor.offset, 0) // size
            last = min(stop - tensor.offset, tensor.nbytes) // size
            if first < last:
                yield Piece(tensor, first, last)

    def _between(self, start: int, stop: int) -> Iterator[PlannedTensor]:
        # Bisected, because a range near the end of a file of many tensors must not cost a walk through all of them.
        low, high = 0, len(self.tensors)
        while low < high:
            middle = (low + high) // 2
            tensor = self.tensors[middle]
            low, high = (middle + 1, high) if tensor.offset + tensor.nbytes <= start else (low, middle)
        for tensor in self.tensors[low:]:
            if tensor.offset >= stop:
                return
            yield tensor


@contextmanager
def naming(name: str, *, several: bool) -> Iterator[None]:
    """Name the tensor in the field of an ``InvalidSpec`` that is raised about it, if there are several tensors."""
    try:
        yield
    except InvalidSpec as error:
        raise error.within(f"tensors.{name}") if several else error from None


def make_plan(spec: Spec, identity: str, *, portable: bool, max_bytes: int) -> Plan:
    """Settle a spec into a plan for the generator that calls itself ``identity``, with ``portable`` laws or torch's.

    Raises ``InvalidSpec`` for what no generator could draw, with the tensor's name in the field if there are several,
    and ``TooLarge`` for a file of more than ``max_bytes``.
    """
    several = len(spec.tensors) > 1
    planned: dict[str, PlannedTensor] = {}
    for order, tensor in enumerate(spec.tensors):
        with naming(tensor.name, several=several):
            planned[tensor.name] = _plan_tensor(tensor, order, portable)
    placed = layout(Entry(t.name, t.dtype, t.region.extent) for t in planned.values())
    nbytes = sum(tensor.nbytes for tensor in planned.values())
    if nbytes > max_bytes:
        raise TooLarge(
            f"the file would hold {nbytes} bytes of tensors, and this server serves at most {max_bytes}; "
            "ask for a slice, or for fewer tensors at once"
        )
    # transformers and others load only files whose metadata names a format; "pt" is the layout of torch.
    metadata = {"format": "pt", "weightwell": "1", "generator": identity, "spec": spec.canonical()}
    head = header(placed, metadata)
    if len(head) > _MAX_HEADER:
        raise TooLarge(
            f"the file's header would have {len(head)} bytes, and readers take {_MAX_HEADER}; ask for several files"
        )
    return Plan(
        generator=spec.generator,
        identity=identity,
        header=head,
        tensors=tuple(replace(planned[entry.name], offset=offset) for entry, offset in placed),
        etag=f'"{hashlib.sha256(head).hexdigest()[:32]}"',
    )


def _plan_tensor(tensor: TensorSpec, order: int, portable: bool) -> PlannedTensor:
    dtype = DTYPES[tensor.dtype]
    _check_count(tensor.shape, dtype)
    law = SCHEMES[tensor.scheme].law(tensor.shape, tensor.parameters, portable=portable)
    _check_representable(tensor, law, dtype)
    if 0 in tensor.shape:
        law = Constant(0.0)  # nothing is drawn, so no generator has to be able to
    return PlannedTensor(tensor.name, tensor.seed, dtype, law, _region(tensor), order)


def _check_count(shape: tuple[int, ...], dtype: DType) -> None:
    count = dtype.itemsize
    for size in shape:
        count *= max(size, 1)
        if count > _MAX_COUNT:
            raise InvalidSpec("shape", got=list(shape), expected=f"at most {_MAX_COUNT} bytes in all")


def _region(tensor: TensorSpec) -> Region:
    if tensor.slice is None:
        return Region.whole(tensor.shape)
    for dimension, ((start, stop), size) in enumerate(zip(tensor.slice, tensor.shape, strict=True)):
        if not start <= stop <= size:
            expected = f"start <= stop <= {size} in dimension {dimension}"
            raise InvalidSpec("slice", got=f"{start}:{stop}", expected=expected)
    starts, stops = zip(*tensor.slice, strict=True)
    return Region(tensor.shape, starts, stops)


def _check_representable(tensor: TensorSpec, law: Law, dtype: DType) -> None:
    """Refuse a law whose numbers do not fit the dtype, by the parameter where it is one and by the dtype where not."""
    for field, value in _extremes(law):
        if abs(value) <= dtype.max:
            continue
        if tensor.parameters.get(field) == value:
            raise InvalidSpec(field, got=value, expected=f"within +-{dtype.max:g}, the range of {dtype.name}")
        raise InvalidSpec("dtype", got=dtype.name, expected=f"one that holds {value:g}, which the law comes to")


def _extremes(law: Law) -> tuple[tuple[str, float], ...]:
    match law:
        case Constant(value) | Lattice(value):
            return (("val", value),)
        case Uniform(low, high):
            return (("a", low), ("b", high), ("b", high - low))
        case Normal(mean, std) | TruncatedNormal(mean, std):
            return (("mean", mean), ("std", std))
        case Sparse(std=std):
            return (("std", std),)
        case Orthogonal(gain=gain):
            return (("gain", gain),)
