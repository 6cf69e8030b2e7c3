"""Plans: a spec with every law, offset and byte count computed. No number is drawn here.

Planning finds every error in a request, so that drawing cannot fail because of the spec.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from math import frexp
from operator import attrgetter

from weightwell_engine.dtypes import DTYPES, INTEGERS, DType
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.laws import (
    Constant,
    Lattice,
    Law,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    UniformIntegers,
    Values,
)
from weightwell_engine.regions import Part, Region, ravel
from weightwell_engine.safetensors import Entry, header, layout
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import METADATA, Bounds, Parameter, PartSpec, Spec, TensorSpec, name_of_part

# The longest header, in bytes, that the safetensors library reads (its MAX_HEADER_SIZE).
_MAX_HEADER = 100_000_000

# A limit in bytes for plans that are only described.
UNLIMITED = 2**127

# The largest number of elements or bytes of a tensor: readers of the format count in signed 64-bit integers.
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a file: name, seed, law, and the region that is in the file.

    The region is counted in items of the dtype. An item is an element, unless the dtype packs several elements into
    one; then the last dimension of the region has items, and all laws still count elements.
    ``order`` is its index in the spec. ``offset`` is the index of its first byte in the file's data.
    ``stream`` is the name that its random words are derived from, if that is not its own. ``parts`` replace some of its
    elements, each those of the parts before it, and ``overlays`` say where, for those parts that have elements in the
    file. A part is planned as a tensor of its own, which has the ``order`` of its tensor; its ``layer`` counts the
    parts of the tensor from 1.
    """

    name: str
    seed: int
    dtype: DType
    law: Law
    region: Region
    order: int
    offset: int = 0
    stream: str | None = None
    parts: tuple["PlannedTensor", ...] = ()
    overlays: tuple["Overlay", ...] = ()
    layer: int = 0

    @property
    def size(self) -> int:
        """Number of items in the file."""
        return self.region.size

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of the region, in elements."""
        return _in_elements(self.region.extent, self.dtype)

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self.size * self.dtype.itemsize

    @property
    def stream_name(self) -> str:
        """The name that the random words are derived from."""
        return self.name if self.stream is None else self.stream

    @property
    def is_matrix(self) -> bool:
        """Whether drawing a part of it needs data about the whole matrix, its parts not counted."""
        return isinstance(self.law, Sparse | Orthogonal | OrthogonalStack)

    @property
    def layers(self) -> tuple["PlannedTensor", ...]:
        """The tensor and those of its parts that have elements in the file, in the order in which they are drawn."""
        return (self, *(overlay.tensor for overlay in self.overlays))


# The fields of a tensor's spec after name, shape, dtype and seed, and of a planned tensor after name and seed.
_REST_OF_SPEC = attrgetter(*[each.name for each in fields(TensorSpec)[4:]])
_REST_OF_TENSOR = attrgetter(*[each.name for each in fields(PlannedTensor)[2:]])


@dataclass(frozen=True, slots=True)
class Overlay:
    """A part of a tensor in the file: the ``tensor`` that it is, and where its elements are.

    The region of the part that is in the file is ``box`` of the region of its tensor that is in the file. ``first`` and
    ``last`` are the flat indices in the latter of its first and its last element.
    """

    tensor: PlannedTensor
    box: Region
    first: int
    last: int

    @classmethod
    def of(cls, tensor: PlannedTensor, box: Region) -> "Overlay":
        """Return the overlay of a part that is at ``box``, which is not empty."""
        first, last = (ravel(corner, box.shape) for corner in (box.starts, tuple(stop - 1 for stop in box.stops)))
        return cls(tensor, box, first, last)

    def piece(self, start: int, stop: int) -> "Piece":
        """Return the elements of the part that are among the elements ``start ... stop - 1`` of the tensor."""
        return Piece(self.tensor, self.box.rank(start), self.box.rank(stop))


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of a tensor, as far as it is in a piece of the tensor.

    Its elements ``piece.start ... piece.stop - 1`` are those of ``box`` with the same numbers; ``box`` is a region of
    the tensor's region in the file.
    """

    piece: "Piece"
    box: Region


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of items of a planned tensor: ``start ... stop - 1``, counted within its region in the file."""

    tensor: PlannedTensor
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return (self.stop - self.start) * self.tensor.dtype.itemsize

    def layers(self) -> tuple[bool, list[Layer]]:
        """Return whether the tensor's own elements have to be drawn, and the parts that are drawn over them, in order.

        What is before a part that has all elements of the piece need not be drawn.
        """
        base, layers = True, list[Layer]()
        for overlay in self.tensor.overlays:
            if overlay.last < self.start or overlay.first >= self.stop:
                continue
            piece = overlay.piece(self.start, self.stop)
            size = piece.stop - piece.start
            if size == self.stop - self.start:
                base, layers = False, []
            if size:
                layers.append(Layer(piece, overlay.box))
        return base, layers

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
    after the header.
    """

    identity: str
    spec: Spec
    tensors: tuple[PlannedTensor, ...]
    data_nbytes: int

    @property
    def generator(self) -> str:
        """The name of the generator."""
        return self.spec.generator

    @property
    def unused(self) -> tuple[int, ...]:
        """The indices of the rules that match no tensor."""
        return self.spec.unused

    @cached_property
    def header(self) -> bytes:
        """The bytes before the data."""
        # transformers and others load only files whose metadata names a format; "pt" is the layout of torch.
        about = dict(zip(METADATA, ("pt", "1", self.identity, self.spec.canonical()), strict=True))
        placed = ((Entry(each.name, each.dtype, each.extent), each.offset) for each in self.tensors)
        return header(placed, about | dict(self.spec.aliases))

    @cached_property
    def etag(self) -> str:
        """The entity tag of the file."""
        return f'"{hashlib.sha256(self.header).hexdigest()[:32]}"'

    def renamed(self, name: str, seed: int) -> "Plan":
        """Return the plan for another name and seed of the file's only tensor."""
        (spec,), (planned,) = self.spec.tensors, self.tensors
        # Constructors take a third of the time of ``dataclasses.replace``, and this is a tenth of a small tensor's.
        renamed = TensorSpec(name, spec.shape, spec.dtype, seed, *_REST_OF_SPEC(spec))
        tensor = PlannedTensor(name, seed, *_REST_OF_TENSOR(planned))
        return Plan(self.identity, Spec(self.spec.generator, (renamed,)), (tensor,), self.data_nbytes)

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self.header) + self.data_nbytes

    @cached_property
    def matrices(self) -> tuple[PlannedTensor, ...]:
        """The tensors that are matrices, or have such parts. Most plans have none, however many tensors they have."""
        return tuple(tensor for tensor in self.tensors if any(layer.is_matrix for layer in tensor.layers))

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


@contextmanager
def errors_of_layer(tensor: PlannedTensor, layer: PlannedTensor, *, several: bool) -> Iterator[None]:
    """Put the names of a tensor and of its part before the field of an ``InvalidSpec``."""
    with errors_of_tensor(tensor.name, several=several or layer.layer > 0):
        try:
            yield
        except InvalidSpec as error:
            if not layer.layer:
                raise
            raise error.within(f"parts.{layer.layer - 1}") from None


def make_plan(spec: Spec, identity: str, *, portable: bool, max_bytes: int) -> Plan:
    """Return the plan of a spec for the generator of an ``identity``, with ``portable`` laws or torch's.

    Raises ``InvalidSpec`` for a spec that no generator can draw, with the tensor's name in the field if there are
    several, and ``TooLarge`` for a file with more than ``max_bytes`` of data.
    """
    several = len(spec.tensors) > 1
    settled: dict[str, tuple[int, TensorSpec, Law, Region, tuple[PlannedTensor, ...]]] = {}
    for order, tensor in enumerate(spec.tensors):
        try:
            _check_packed(tensor)
            law, region = _law_of(tensor, tensor.shape, tensor.dtype, portable=portable), _region(tensor)
            parts = _parts(order, tensor, region, portable=portable) if tensor.parts else ()
            settled[tensor.name] = order, tensor, law, region, parts
        except InvalidSpec as error:
            raise error.within(f"tensors.{tensor.name}") if several or tensor.parts else error from None
    placed = layout(
        Entry(name, DTYPES[t.dtype], _in_elements(region.extent, DTYPES[t.dtype]))
        for name, (_, t, _, region, _) in settled.items()
    )
    data_nbytes = sum(entry.nbytes for entry, _ in placed)
    check_size(data_nbytes, max_bytes)
    plan = Plan(
        identity=identity,
        spec=spec,
        tensors=tuple(_planned(*settled[entry.name], offset) for entry, offset in placed),
        data_nbytes=data_nbytes,
    )
    if len(plan.header) > _MAX_HEADER:
        raise TooLarge(
            f"the file's header would have {len(plan.header)} bytes, and readers allow {_MAX_HEADER}; "
            "request several files"
        )
    return plan


def check_size(nbytes: int, max_bytes: int) -> None:
    """Raise ``TooLarge`` for a file with more bytes of tensors than the deployment allows."""
    if nbytes > max_bytes:
        raise TooLarge(
            f"the file would hold {nbytes} bytes of tensors, and this server serves at most {max_bytes} "
            "(WEIGHTWELL_MAX_BYTES); request a slice, or fewer tensors at once"
        )


def _planned(
    order: int, tensor: TensorSpec, law: Law, region: Region, parts: tuple[PlannedTensor, ...], offset: int
) -> PlannedTensor:
    overlays = tuple(
        Overlay.of(planned, _rectangle(tensor, part).meet(region).within(region))
        for planned, part in zip(parts, tensor.parts, strict=True)
        if planned.size
    )
    return PlannedTensor(
        tensor.name, tensor.seed, DTYPES[tensor.dtype], law, region, order, offset, tensor.stream, parts, overlays
    )


def _parts(order: int, tensor: TensorSpec, region: Region, *, portable: bool) -> tuple[PlannedTensor, ...]:
    """Return the parts of a tensor, of which a region is in the file."""
    parts = []
    for place, part in enumerate(tensor.parts):
        try:
            _check_cuts(part.bounds, DTYPES[tensor.dtype])
            law = _law_of(part, part.shape, tensor.dtype, portable=portable)
        except InvalidSpec as error:
            raise error.within(f"parts.{place}") from None
        planned = PlannedTensor(
            name=name_of_part(tensor.stream_name, part.bounds),
            seed=tensor.seed,
            dtype=DTYPES[tensor.dtype],
            law=law,
            region=_rectangle(tensor, part).meet(region).within(_rectangle(tensor, part)),
            order=order,
            stream=part.stream,
            layer=1 + place,
        )
        parts.append(planned)
    return tuple(parts)


def _rectangle(tensor: TensorSpec, part: PartSpec) -> Region:
    return _in_items(Region(tensor.shape, *zip(*part.bounds, strict=True)), tensor)


def _in_items(region: Region, tensor: TensorSpec) -> Region:
    """Return a region of elements of a tensor as one of items, of which the last dimension has fewer."""
    packed = DTYPES[tensor.dtype].packed
    if packed == 1:
        return region
    fewer = ((*sizes[:-1], sizes[-1] // packed) for sizes in (region.shape, region.starts, region.stops))
    return Region(*fewer)


def _in_elements(extent: tuple[int, ...], dtype: DType) -> tuple[int, ...]:
    """Return a shape that counts elements, of one whose last size counts items."""
    return extent if dtype.packed == 1 else (*extent[:-1], extent[-1] * dtype.packed)


def _law_of(spec: TensorSpec | PartSpec, shape: tuple[int, ...], dtype: str, *, portable: bool) -> Law:
    parameters = tuple(sorted(spec.parameters.items()))
    if spec.scheme in _NOT_KEPT:
        return _law.__wrapped__(spec.scheme, shape, dtype, parameters, "", portable=portable)
    return _law(spec.scheme, shape, dtype, parameters, str(parameters), portable=portable)


# Laws of these schemes are as long as their specs, so that they are not kept.
_NOT_KEPT = {"values"}


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
    """Return the region of a tensor that is in the file."""
    if tensor.slice is None:
        return _in_items(Region.whole(tensor.shape), tensor)
    for dimension, ((start, stop), size) in enumerate(zip(tensor.slice, tensor.shape, strict=True)):
        if not start <= stop <= size:
            expected = f"start <= stop <= {size} in dimension {dimension}"
            raise InvalidSpec("slice", got=f"{start}:{stop}", expected=expected)
    _check_cuts(tensor.slice, DTYPES[tensor.dtype])
    starts, stops = zip(*tensor.slice, strict=True)
    return _in_items(Region(tensor.shape, starts, stops), tensor)


# Checking laws and shapes against the dtype --------------------------------------------------------------------------


def _check_packed(tensor: TensorSpec) -> None:
    """Refuse a shape whose rows are not whole items of the dtype."""
    dtype = DTYPES[tensor.dtype]
    if dtype.packed > 1 and (not tensor.shape or tensor.shape[-1] % dtype.packed):
        expected = f"a shape whose last size is a multiple of {dtype.packed}, as a byte of {dtype.name} holds as many"
        raise InvalidSpec("shape", got=list(tensor.shape), expected=expected)


def _check_cuts(bounds: Bounds, dtype: DType) -> None:
    """Refuse bounds that cut through an item of the dtype."""
    if dtype.packed > 1 and any(bound % dtype.packed for bound in bounds[-1]):
        expected = f"from a multiple of {dtype.packed} to another in the last dimension, as a byte of {dtype.name} "
        expected += "holds as many elements"
        raise InvalidSpec("slice", got="{}:{}".format(*bounds[-1]), expected=expected)


def _check_representable(parameters: Mapping[str, Parameter], law: Law, dtype: DType) -> None:
    """Refuse a law that the dtype cannot hold. The error names the parameter, or else the dtype."""
    _check_kind(law, dtype)
    if isinstance(law, PowersOfTwo):
        _check_exponents(parameters, law, dtype)
    for field, value in law.extremes():
        if dtype.min <= value <= dtype.max or (value == 0 and dtype.min > 0):  # which is refused below
            continue
        if field in parameters and (parameters[field] == value or isinstance(law, UniformIntegers)):
            raise InvalidSpec(field, got=parameters[field], expected=_range(dtype, above=field == "high"))
        raise InvalidSpec("dtype", got=dtype.name, expected=f"one that holds {value:g}, which this law needs")
    if not dtype.is_real:
        for field, value in _given(law):
            _check_exact(parameters, field, value, dtype)


def _check_kind(law: Law, dtype: DType) -> None:
    """Refuse a kind of law that the dtype cannot have, whatever its numbers are."""
    if dtype.is_real:
        refused, expected = (
            isinstance(law, UniformIntegers),
            f"one of {', '.join(INTEGERS)}, as this scheme draws integers",
        )
    elif dtype.is_integer:
        refused = not isinstance(law, Constant | Lattice | Values | UniformIntegers)
        expected = (
            f"a floating-point type, as this scheme draws fractions; {dtype.name} can have zeros, ones, constant, "
            "values and randint"
        )
    else:
        refused = not isinstance(law, Constant | Values | PowersOfTwo)
        expected = (
            f"another type, as {dtype.name} holds powers of two only, from 2^-127 to 2^127; "
            "it can have ones, constant, values and power_of_two"
        )
    if refused:
        raise InvalidSpec("dtype", got=dtype.name, expected=expected)


def _check_exponents(parameters: Mapping[str, Parameter], law: PowersOfTwo, dtype: DType) -> None:
    """Refuse powers of two that are not normal numbers of the dtype."""
    least, most = dtype.exponents
    for field, exponent in (("low", law.low), ("high", law.high - 1)):
        if not least <= exponent <= most:
            expected = f"in [{least + (field == 'high')}, {most + (field == 'high')}], the exponents of {dtype.name}"
            raise InvalidSpec(field, got=parameters.get(field, exponent), expected=expected)


def _range(dtype: DType, *, above: bool = False) -> str:
    """Return the words for the range of a dtype, or of a bound ``above`` it."""
    if dtype.min == -dtype.max and not above:
        largest = f"{dtype.max:.0f}" if dtype.is_integer else f"{dtype.max:g}"
        return f"within +-{largest}, the range of {dtype.name}"
    return f"in [{dtype.min + above:.17g}, {dtype.max + above:.17g}], the range of {dtype.name}"


def _given(law: Law) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a law that are written as they are, each with the parameter that it comes from."""
    if isinstance(law, Values):
        yield from (("values", value) for value in law.values)
    elif isinstance(law, Constant | Lattice):
        yield "val", law.value


def _check_exact(parameters: Mapping[str, Parameter], field: str, value: float, dtype: DType) -> None:
    """Refuse a number that an integer type, or a type of powers of two, does not hold exactly."""
    exact = value.is_integer() if dtype.is_integer else frexp(value)[0] == 0.5
    if exact:
        return
    why = "is not an integer" if dtype.is_integer else "is not a power of two"
    if parameters.get(field) == value:
        what = "an integer" if dtype.is_integer else "a power of two"
        raise InvalidSpec(field, got=value, expected=f"{what}, as {dtype.name} holds no other numbers")
    raise InvalidSpec("dtype", got=dtype.name, expected=f"a type that holds {value!r}, which {why}")
