"""Plans: a spec with every law, offset and byte count computed. No number is drawn here.

Planning finds every error in a request, so that drawing cannot fail because of the spec.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.laws import Constant, Lattice, Law
from weightwell_engine.regions import Part, Region
from weightwell_engine.safetensors import Entry, header, layout
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import METADATA, Parameter, Spec, TensorSpec

# The longest header, in bytes, that the safetensors library reads (its MAX_HEADER_SIZE).
_MAX_HEADER = 100_000_000

# A limit in bytes for plans that are only described.
UNLIMITED = 2**127

# The largest number of elements or bytes of a tensor: readers of the format count in signed 64-bit integers.
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a file: name, seed, law, and the region that is in the file.

    ``order`` is its index in the spec. ``offset`` is the index of its first byte in the file's data.
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
    """A range of elements of a planned tensor: ``start ... stop - 1``, counted within its region in the file."""

    tensor: PlannedTensor
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return (self.stop - self.start) * self.tensor.dtype.itemsize

    def parts(self, out: memoryview) -> Iterator[tuple[Part, memoryview]]:
        """Yield parts of the whole tensor that make up the piece, each with its place in ``out``."""
        filled = 0
        for part in self.tensor.region.parts(self.start, self.stop):
            nbytes = part.size * self.tensor.dtype.itemsize
            yield part, out[filled : filled + nbytes]
            filled += nbytes


@dataclass(frozen=True)
class Plan:
    """One virtual file: its header, and its tensors in the order of the file.

    ``identity`` names the generator, its version, and everything else that the numbers depend on. The metadata in the
    header has the identity and the canonical spec, so the header determines every byte of the file. The digest of the
    header is the file's ``etag``, in quotes as in HTTP: a strong validator. ``data_nbytes`` is the size of the data
    after the header. ``unused`` are the paths of the rules that match no tensor. They do not change the file.
    """

    generator: str
    identity: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    data_nbytes: int
    etag: str
    unused: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self.header) + self.data_nbytes

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield the pieces in bytes ``start ... stop - 1`` of the data. Both must be multiples of 8 or its end."""
        for tensor in self._between(start, stop):
            size = tensor.dtype.itemsize
            first = max(start - tensor.offset, 0) // size
            last = min((stop - tensor.offset) // size, tensor.size)
            if first < last:
                yield Piece(tensor, first, last)

    def _between(self, start: int, stop: int) -> Iterator[PlannedTensor]:
        # Binary search, so that a range near the end does not visit all tensors.
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
def errors_of_tensor(name: str, *, several: bool) -> Iterator[None]:
    """Prefix the field of an ``InvalidSpec`` with the tensor's name, if the file has several tensors."""
    try:
        yield
    except InvalidSpec as error:
        if not several:
            raise
        raise error.within(f"tensors.{name}") from None


def make_plan(spec: Spec, identity: str, *, portable: bool, max_bytes: int) -> Plan:
    """Return the plan of a spec for the generator of an ``identity``, with ``portable`` laws or torch's.

    Raises ``InvalidSpec`` for a spec that no generator can draw, with the tensor's name in the field if there are
    several, and ``TooLarge`` for a file with more than ``max_bytes`` of data.
    """
    several = len(spec.tensors) > 1
    settled: dict[str, tuple[int, TensorSpec, Law, Region]] = {}
    for order, tensor in enumerate(spec.tensors):
        parameters = tuple(sorted(tensor.parameters.items()))
        try:
            law = _law(tensor.scheme, tensor.shape, tensor.dtype, parameters, str(parameters), portable=portable)
            settled[tensor.name] = order, tensor, law, _region(tensor)
        except InvalidSpec as error:
            raise error.within(f"tensors.{tensor.name}") if several else error from None
    placed = layout(Entry(name, DTYPES[t.dtype], region.extent) for name, (_, t, _, region) in settled.items())
    data_nbytes = sum(entry.nbytes for entry, _ in placed)
    check_size(data_nbytes, max_bytes)
    # transformers and others load only files whose metadata names a format; "pt" is the layout of torch.
    metadata = dict(zip(METADATA, ("pt", "1", identity, spec.canonical()), strict=True)) | dict(spec.aliases)
    head = header(placed, metadata)
    if len(head) > _MAX_HEADER:
        raise TooLarge(
            f"the file's header would have {len(head)} bytes, and readers allow {_MAX_HEADER}; request several files"
        )
    return Plan(
        generator=spec.generator,
        identity=identity,
        header=head,
        tensors=tuple(_planned(*settled[entry.name], offset) for entry, offset in placed),
        data_nbytes=data_nbytes,
        etag=f'"{hashlib.sha256(head).hexdigest()[:32]}"',
        unused=spec.unused,
    )


def check_size(nbytes: int, max_bytes: int) -> None:
    """Raise ``TooLarge`` for a file with more bytes of tensors than the deployment allows."""
    if nbytes > max_bytes:
        raise TooLarge(
            f"the file would hold {nbytes} bytes of tensors, and this server serves at most {max_bytes} "
            "(WEIGHTWELL_MAX_BYTES); request a slice, or fewer tensors at once"
        )


def _planned(order: int, tensor: TensorSpec, law: Law, region: Region, offset: int) -> PlannedTensor:
    return PlannedTensor(tensor.name, tensor.seed, DTYPES[tensor.dtype], law, region, order, offset)


# A cache, since layers of a model are alike. The key has the parameters as text too, because -0.0 equals 0.0 but is
# drawn with its sign.
@lru_cache(4096)
def _law(
    scheme: str,
    shape: tuple[int, ...],
    dtype_name: str,
    parameters: tuple[tuple[str, Parameter], ...],
    _parameters_text: str,
    *,
    portable: bool,
) -> Law:
    dtype, given = DTYPES[dtype_name], dict(parameters)
    _check_count(shape, dtype)
    law = SCHEMES[scheme].law(shape, given, portable=portable)
    _check_representable(given, law, dtype)
    return Constant(0.0) if 0 in shape else law  # every generator can draw a tensor without elements


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


def _check_representable(parameters: Mapping[str, Parameter], law: Law, dtype: DType) -> None:
    """Refuse a law with numbers outside the dtype's range. The error names the parameter, or else the dtype."""
    if dtype.is_integer:
        _check_whole(law, dtype)
    for field, value in law.extremes():
        if abs(value) <= dtype.max:
            continue
        if parameters.get(field) == value:
            largest = f"{dtype.max:.0f}" if dtype.is_integer else f"{dtype.max:g}"
            raise InvalidSpec(field, got=value, expected=f"within +-{largest}, the range of {dtype.name}")
        raise InvalidSpec("dtype", got=dtype.name, expected=f"one that holds {value:g}, which this law needs")


def _check_whole(law: Law, dtype: DType) -> None:
    """Refuse a law whose numbers are not all integers."""
    if not isinstance(law, Constant | Lattice):
        expected = "a floating-point type, as this scheme draws fractions"
        raise InvalidSpec("dtype", got=dtype.name, expected=expected)
    if not law.value.is_integer():
        raise InvalidSpec("dtype", got=dtype.name, expected=f"a type that holds {law.value!r}, which is not an integer")
