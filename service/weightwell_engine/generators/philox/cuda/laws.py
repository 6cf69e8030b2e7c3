"""Laws prepared for the GPU, and the segments for parts of them.

All decisions before drawing are made here, on the host, with the same modules as the CPU's generator: ``draws``,
``truncation``, ``keys``, ``formats``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Protocol

import torch

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cuda import kernels, orthogonal
from weightwell_engine.generators.philox.cuda.launches import launch, on
from weightwell_engine.generators.philox.cuda.segments import Program, Segment, Span, law_row, placed, spans
from weightwell_engine.generators.philox.specification.draws import (
    Draw,
    IntegerDraw,
    Variate,
    carrier_of,
    require_numbered_rows,
    settle,
    settle_integers,
)
from weightwell_engine.generators.philox.specification.formats import narrowing, pattern
from weightwell_engine.generators.philox.specification.keys import Key, Stream, derive_key
from weightwell_engine.generators.philox.specification.truncation import Narrow, Wide
from weightwell_engine.laws import (
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    UniformIntegers,
    Values,
)
from weightwell_engine.regions import Runs

# The source of variates for each law.
_SOURCES = {
    Variate.UNIFORM: kernels.UNIFORM,
    Variate.NORMAL: kernels.NORMAL,
    Variate.WIDE: kernels.NORMAL,
    Variate.NARROW: kernels.NARROW,
}
# Mask words of a sparse matrix in one panel of whole columns, and the bytes for each: the word, its key, and torch's
# copies of both.
_PANEL, _RANKING = 1 << 22, 32


class Prepared(Protocol):
    """A law, ready to be drawn."""

    def segments(self, runs: Runs, offset: int) -> Iterable[Segment]:
        """Return segments that draw the elements of ``runs`` to the bytes from ``offset`` on."""


Part = tuple[Prepared, Runs, int]


def fill(parts: Sequence[Part], out: torch.Tensor) -> None:
    """Draw parts of tensors into ``out`` (n, uint8), each from its own byte on, a multiple of its item size.

    The work is enqueued on the current stream of ``out``'s device. Keep ``out`` and the prepared laws until it is done.
    Four elements are drawn and written at once if memory begins at a multiple of 16 bytes, and elements with an index
    that is a multiple of four are placed at multiples of four elements.
    """
    with on(out.device):
        wanted = [part for part in parts if part[1].size]
        whole = [part for part in wanted if not isinstance(part[0], Packed)]
        launch((segment for law, runs, offset in whole for segment in law.segments(runs, offset)), out)
        for law, runs, offset in wanted:
            if isinstance(law, Packed):
                law.write(runs, out[offset : offset + runs.size])


def prepare(law: Law, dtype: DType, seed: int, name: str, device: torch.device) -> Prepared:
    """Return an object that draws a law for the tensor ``name``; raise ``InvalidSpec`` for too many sparse rows.

    Device memory is allocated when the first part is drawn, and then kept.
    """
    unpacked = _prepared(law, dtype, seed, name, device)
    return Packed(unpacked, dtype) if dtype.packed > 1 else unpacked


def _prepared(law: Law, dtype: DType, seed: int, name: str, device: torch.device) -> Prepared:
    """Return an object that draws one element to an item."""
    match law:
        case Constant(value):
            return Constants(dtype.itemsize, pattern(value, dtype))
        case Values():
            raise TypeError("given numbers are written by the host, not by a kernel")
        case Lattice():
            return Points(law, Constants(dtype.itemsize, 0), pattern(law.value, dtype))
        case Sparse():
            return Columns(law, prepare_elements(settle(Normal(0.0, law.std), dtype), seed, name), seed, name, device)
        case Orthogonal() | OrthogonalStack():
            normals = prepare_elements(settle(Normal(0.0, 1.0), carrier_of(dtype)), seed, name, Stream.GAUSSIAN)
            draw = settle(Normal(0.0, law.gain), dtype)
            if isinstance(law, Orthogonal):
                return Matrix(law, draw, normals, device)
            return Stack(law, draw, normals, device)
        case UniformIntegers() | PowersOfTwo():
            return _integers(settle_integers(law, dtype), seed, name)
        case law:
            return prepare_elements(settle(law, dtype), seed, name)


def nbytes(law: Law, dtype: DType) -> int:
    """Return the device bytes for drawing a law, not counting its elements: (kept, temporary)."""
    match law:
        case Sparse(rows, cols):
            return 8 * cols + _RANKING * rows * _width(law)
        case Orthogonal(rows, cols):
            itemsize = carrier_of(dtype).itemsize
            return rows * cols * itemsize + orthogonal.nbytes(rows, cols, itemsize)
        case OrthogonalStack(rows, cols, taps=taps, count=count):
            itemsize = carrier_of(dtype).itemsize
            # The matrices, the convolution kernels around them, and a copy of either in the order of the tensor's axes.
            copies = 2 if taps == 1 else 1 + 2 * taps
            return copies * count * rows * cols * itemsize + orthogonal.nbytes(rows, cols, itemsize)
    return 0


@dataclass(frozen=True, slots=True)
class Constants:
    """A tensor whose elements all have the same bits."""

    itemsize: int
    bits: int

    def segments(self, runs: Runs, offset: int) -> Iterator[Segment]:
        """Return segments that write the elements of ``runs``; their indices do not matter."""
        target = offset // self.itemsize
        for span in spans(Runs(target, runs.size, 0, 1), target):
            program = Program(kernels.write_constants, self.itemsize, span.lane)
            yield _segment(program, law_row(bits=self.bits), span)


@dataclass(frozen=True, slots=True)
class Points:
    """A tensor of zeros, and equal values at the points of a lattice, which overwrite zeros."""

    law: Lattice
    zeros: Constants
    bits: int

    def segments(self, runs: Runs, offset: int) -> Iterator[Segment]:
        """Return segments that write the elements of ``runs``: zeros, and then the points that can be among them."""
        yield from self.zeros.segments(runs, offset)
        program = Program(kernels.write_points, self.zeros.itemsize, 1, over=True)
        (outer, inner), (rows, cols) = self.law.strides, self.law.counts
        stride = runs.stride if runs.count > 1 else runs.length
        stop = runs.first + (runs.count - 1) * stride + runs.length
        # The lattice's rows from the first that ends inside the range of the runs to the last that begins inside it.
        begin = max(0, -((self.law.first + (cols - 1) * inner - runs.first) // max(outer, 1)))
        end = min(rows, -((self.law.first - stop) // max(outer, 1)))
        items = (end - begin) * cols
        if items > 0:
            start = self.law.first + begin * outer
            row = law_row(bits=self.bits, outer=outer, inner=inner, cols=cols, start=start, points=items)
            span = Span(1, replace(runs, stride=stride), offset // self.zeros.itemsize)
            yield Segment(program, placed(row, span), items)


@dataclass(frozen=True, slots=True)
class Elements:
    """A tensor of independent elements, of elements of a matrix, or of independent elements with zeros in columns.

    ``row`` has the fields of the law for kernels, and ``source`` is the source of its variates.
    """

    draw: Draw
    row: Any
    source: int
    masked: bool = False

    def segments(self, runs: Runs, offset: int) -> Iterator[Segment]:
        """Return segments that draw the elements of ``runs``: most in groups of four, if they are independent."""
        target = offset // self.draw.dtype.itemsize
        divided = [Span(1, runs, target)] if self.source == kernels.MATRIX else spans(runs, target)
        for span in divided:
            yield _segment(self._program(span.lane), self.row, span)

    def _program(self, lane: int) -> Program:
        draw, doubles = self.draw, self.draw.carrier.name == "float64"
        narrow = draw.dtype.itemsize < 4
        constants = {
            "VARIATE": self.source,
            "ITEMSIZE": draw.dtype.itemsize,
            "TARGET": tuple(narrowing(draw.dtype)) if narrow else (),
            "SCALED": draw.exponent != 0,
            "MASKED": self.masked,
        }
        kernel, share = (kernels.draw_doubles, 4) if doubles else (kernels.draw_singles, 1)
        return Program(kernel, draw.dtype.itemsize, lane, tuple(constants.items()), share)


class Columns:
    """A sparse matrix: independent elements. In each column, the ``zeros`` elements with the lowest keys are zero.

    The limit of a column is the key of its last zero. It depends on the mask words of all rows. Limits are computed at
    their first use, in panels of columns, and cached with 8 bytes for each column.
    """

    def __init__(self, law: Sparse, elements: Elements, seed: int, name: str, device: torch.device):
        require_numbered_rows(law)
        self._law = law
        self._elements = elements
        self._key = derive_key(seed, name, Stream.MASK)
        self._device = device
        self._width = _width(law)
        self._lock = Lock()
        self._known: set[int] = set()
        self._limits: torch.Tensor | None = None

    def segments(self, runs: Runs, offset: int) -> Iterable[Segment]:
        """Compute the limits, and return segments that draw the elements of ``runs``."""
        if not self._law.zeros:
            return self._elements.segments(runs, offset)
        with self._lock:
            limits = self._ranked(self._panels(runs))
        row = self._elements.row.copy()
        row["mask_key"], row["mask_nonce"] = _halves(self._key)
        row["cols"], row["address"] = self._law.cols, limits.data_ptr()
        return replace(self._elements, row=row, masked=True).segments(runs, offset)

    def _panels(self, runs: Runs) -> range:
        """Return the panels with the columns of runs; all panels if a run continues in the next row."""
        cols, first = self._law.cols, runs.first % self._law.cols
        if (runs.stride % cols and runs.count > 1) or first + runs.length > cols:
            return range(-(-cols // self._width))
        return range(first // self._width, (first + runs.length - 1) // self._width + 1)

    def _ranked(self, panels: range) -> torch.Tensor:
        """Compute the limits of some panels if needed, and return all limits."""
        if self._limits is None:
            self._limits = torch.empty(self._law.cols, dtype=torch.int64, device=self._device)
        missing = set(panels) - self._known
        for panel in missing:
            columns = slice(panel * self._width, min((panel + 1) * self._width, self._law.cols))
            self._limits[columns] = self._rank(columns)
        if missing:
            _finish(self._device)  # another stream may use them next
        self._known |= missing
        return self._limits

    def _rank(self, columns: slice) -> torch.Tensor:
        """Compute the limits of some columns, as bits of unsigned integers."""
        rows, width = self._law.rows, columns.stop - columns.start
        words = torch.empty((rows, width), dtype=torch.int32, device=self._device)
        key, nonce = _halves(self._key)
        drawn = Words(law_row(key=key, nonce=nonce))
        fill([(drawn, Runs(columns.start, width, self._law.cols, rows), 0)], words.view(torch.uint8).view(-1))
        # With the sign bit flipped, the order of signed integers is that of unsigned ones.
        keys = (words.T.contiguous() ^ -(1 << 31)).to(torch.int64) << 32
        keys |= torch.arange(rows, device=self._device)
        return torch.kthvalue(keys, self._law.zeros).values ^ -(1 << 63)


class Matrix:
    """An orthogonal matrix, optionally at the centres of convolution kernels. It is computed at its first use and kept.

    Its elements are scaled and rounded like draws from N(0, gain^2): ``draw`` is that law, and the elements are its
    variates. The ``normals`` of the reflectors are in float64 for float64, and else in float32.
    """

    def __init__(self, law: Orthogonal, draw: Draw, normals: Elements, device: torch.device):
        self._law = law
        self._draw = draw
        self._normals = normals
        self._device = device
        self._lock = Lock()
        self._variates: torch.Tensor | None = None

    def segments(self, runs: Runs, offset: int) -> Iterable[Segment]:
        """Compute the matrix, and return segments that draw the elements of ``runs``."""
        with self._lock:
            if self._variates is None:
                self._variates = self._multiplied_out()
        row = _numbers(self._draw)
        row["taps"], row["centre"], row["address"] = self._law.taps, self._law.centre, self._variates.data_ptr()
        return Elements(self._draw, row, kernels.MATRIX).segments(runs, offset)

    def _multiplied_out(self) -> torch.Tensor:
        matrix = orthogonal.haar_(self._gaussian((self._law.rows, self._law.cols)))
        _finish(self._device)
        return matrix

    def _gaussian(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the first normals, in a tensor of some shape."""
        dtype = torch.float64 if self._draw.carrier.name == "float64" else torch.float32
        gaussian = torch.empty(shape, dtype=dtype, device=self._device)
        fill([(self._normals, Runs(0, gaussian.numel(), 0, 1), 0)], gaussian.view(torch.uint8).view(-1))
        return gaussian


class Stack(Matrix):
    """A stack of orthogonal matrices. All are computed and kept, in the order of the tensor's axes."""

    def __init__(self, law: OrthogonalStack, draw: Draw, normals: Elements, device: torch.device):
        # The variates form a matrix of one row, and every element is at the centre of its kernel.
        super().__init__(Orthogonal(1, law.count * law.rows * law.cols * law.taps, law.gain), draw, normals, device)
        self._stack = law

    def _multiplied_out(self) -> torch.Tensor:
        law = self._stack
        matrices = self._gaussian((law.count, law.rows, law.cols))
        for matrix in matrices:
            orthogonal.haar_(matrix)
        if law.taps > 1:
            kernels = matrices.new_zeros((*matrices.shape, law.taps))
            kernels[..., law.centre] = matrices
            matrices = kernels
        tensor = matrices.as_strided(law.sizes, law.strides).contiguous()
        _finish(self._device)
        return tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """A law of a dtype that packs elements into bytes: they are drawn one to a byte, and then put together."""

    law: Prepared
    dtype: DType

    def segments(self, _runs: Runs, _offset: int) -> Iterable[Segment]:
        """Refuse: elements are packed after they are drawn, so ``fill`` calls ``write``."""
        raise TypeError("a packed law has no segments")

    def write(self, runs: Runs, out: torch.Tensor) -> None:
        """Enqueue what writes the items of ``runs`` into ``out`` (runs.size, uint8)."""
        packed = self.dtype.packed
        elements = torch.empty((runs.size, packed), dtype=torch.uint8, device=out.device)
        drawn = Runs(packed * runs.first, packed * runs.length, packed * runs.stride, runs.count)
        launch(self.law.segments(drawn, 0), elements.view(-1))
        out.copy_(elements[:, 0])
        for place in range(1, packed):
            out |= elements[:, place] << (place * self.dtype.bits)


@dataclass(frozen=True, slots=True)
class Integers:
    """A tensor of uniform integers, or of powers of two."""

    draw: IntegerDraw
    row: Any

    def segments(self, runs: Runs, offset: int) -> Iterator[Segment]:
        """Return segments that draw the elements of ``runs``."""
        itemsize = self.draw.dtype.itemsize
        for span in spans(runs, offset // itemsize):
            program = Program(kernels.draw_integers, itemsize, span.lane, (("FIELD", self.draw.field),))
            yield _segment(program, self.row, span)


@dataclass(frozen=True, slots=True)
class Words:
    """The raw words of a stream."""

    row: Any

    def segments(self, runs: Runs, offset: int) -> Iterator[Segment]:
        """Return segments that draw the words of ``runs``."""
        for span in spans(runs, offset // 4):
            yield _segment(Program(kernels.write_words, 4, span.lane), self.row, span)


def prepare_elements(draw: Draw, seed: int, name: str, stream: Stream = Stream.DATA) -> Elements:
    """Return an object that draws a law of independent elements."""
    row = _numbers(draw)
    row["key"], row["nonce"] = _halves(derive_key(seed, name, stream))
    row["low_key"], row["low_nonce"] = _halves(derive_key(seed, name, Stream.LOW))
    match draw.window:
        case Wide(origin, width):
            row["origin"], row["width"] = origin, width
        case Narrow(side, start, span, exponent):
            row["side"], row["strip_start"], row["strip_span"], row["strip_exponent"] = side, start, span, exponent
    return Elements(draw, row, _SOURCES[draw.variate])


def _integers(draw: IntegerDraw, seed: int, name: str) -> Integers:
    row = law_row(bits=draw.shift)
    row["key"], row["nonce"] = _halves(derive_key(seed, name, Stream.DATA))
    row["low_key"], row["low_nonce"] = _halves(derive_key(seed, name, Stream.LOW))
    row["origin"], row["width"] = draw.start % (1 << 64), draw.count % (1 << 64)
    return Integers(draw, row)


def _numbers(draw: Draw) -> Any:
    return law_row(scale=draw.scale, shift=draw.shift, low=draw.low, high=draw.high, exponent=draw.exponent)


def _segment(program: Program, row: Any, span: Span) -> Segment:
    return Segment(program, placed(row, span), span.runs.size * span.lane)


def _halves(key: Key) -> tuple[int, int]:
    """Return a key as two 64-bit integers: Philox's key, and the high half of its counter."""
    return key.k0 | key.k1 << 32, key.n0 | key.n1 << 32


def _width(law: Sparse) -> int:
    """Return the columns of a panel."""
    return min(max(1, _PANEL // max(law.rows, 1)), max(law.cols, 1))


def _finish(device: torch.device) -> None:
    """Wait until the current stream is empty, without using the CPU."""
    if device.type != "cpu":
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        event.synchronize()
