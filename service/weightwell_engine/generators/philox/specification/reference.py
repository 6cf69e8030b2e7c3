"""The reference: the specification of the generator in code. It is plain numpy, slow and readable."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.specification.draws import (
    Draw,
    IntegerDraw,
    Variate,
    carrier_of,
    settle,
    settle_integers,
)
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns, encode, pattern
from weightwell_engine.generators.philox.specification.keys import Stream, derive_key
from weightwell_engine.generators.philox.specification.orthogonal import haar
from weightwell_engine.generators.philox.specification.orthogonal_stack import places
from weightwell_engine.generators.philox.specification.quantile import (
    Doubles,
    Singles,
    log_tail,
    normal_doubles,
    normal_singles,
    signed_quantile,
    tail_quantile,
    unit,
)
from weightwell_engine.generators.philox.specification.truncation import Narrow, Wide
from weightwell_engine.generators.philox.specification.words import Indices, Words, words
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
from weightwell_engine.regions import Part as Elements
from weightwell_engine.regions import indices
from weightwell_engine.spec import Bounds

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The law of one tensor, prepared for drawing any part."""

    law: Law
    dtype: DType
    seed: int
    name: str

    def fill(self, part: Elements, out: memoryview) -> None:
        """Write the items of ``part``, little-endian, into ``out``: ``part.size * dtype.itemsize`` bytes."""
        target = np.frombuffer(out, UNSIGNED[self.dtype.itemsize])
        target[:] = self.items(indices(part).view(np.uint64))

    def items(self, at: Indices) -> Patterns:
        """Return the bits of the items at some flat indices: of elements, the first in the lowest bits of its item."""
        packed, bits = self.dtype.packed, self.dtype.bits
        together = np.zeros(at.shape, np.uint64)
        for place in range(packed):
            together |= self.patterns(at * np.uint64(packed) + np.uint64(place)).astype(np.uint64) << np.uint64(
                place * bits
            )
        return together

    def patterns(self, at: Indices) -> Patterns:
        """Return the bits of the elements at some flat indices."""
        match self.law:
            case Constant(value):
                return np.full(at.shape, pattern(value, self.dtype), np.uint64)
            case Lattice():
                return np.where(on_lattice(self.law, at), np.uint64(pattern(self.law.value, self.dtype)), np.uint64(0))
            case Values():
                bits = np.array([pattern(value, self.dtype) for value in self.law.values], np.uint64)
                return bits[in_view(at, self.law.sizes, self.law.strides)]
            case Sparse():
                normal = Prepared(Normal(0.0, self.law.std), self.dtype, self.seed, self.name)
                return np.where(self._is_zero(self.law, at), np.uint64(0), normal.patterns(at))
            case Orthogonal():
                place, tap = np.divmod(at, np.uint64(self.law.taps))
                return np.where(tap == self.law.centre, self._matrix(self.law)[place], np.uint64(0))
            case OrthogonalStack():
                place, tap = places(self.law, at)
                matrices = np.array([self._matrix(self.law.each, number) for number in range(self.law.count)])
                return np.where(tap == self.law.centre, matrices.ravel()[place], np.uint64(0))
            case UniformIntegers() | PowersOfTwo():
                return self._integers(settle_integers(self.law, self.dtype), at)
            case law:
                draw = settle(law, self.dtype)
                return self._settled(self._variates(draw, at, Stream.DATA), draw)

    def _integers(self, draw: IntegerDraw, at: Indices) -> Patterns:
        """Return the bits of uniform integers, in arithmetic of Python's integers."""
        fields = max(32 // draw.field, 1)
        u = self._words(Stream.DATA, at // np.uint64(fields)).astype(object)
        if draw.field == 64:
            u = (u << 32) | self._words(Stream.LOW, at).astype(object)
        else:
            u = (u >> draw.field * (at % np.uint64(fields)).astype(object)) & ((1 << draw.field) - 1)
        elements = (draw.start + (u * draw.count >> draw.field)) << draw.shift
        bits: Patterns = (elements & ((1 << self.dtype.bits) - 1)).astype(np.uint64)
        return bits

    def _variates(self, draw: Draw, at: Indices, stream: Stream) -> Singles | Doubles:
        high, low = self._words(stream, at), self._words(Stream.LOW, at)
        return double_variates(draw, high, low) if draw.carrier.name == "float64" else single_variates(draw, high)

    def _settled(self, variates: Singles | Doubles, draw: Draw) -> Patterns:
        """Return the bits of ``v * scale + shift`` within its bounds."""
        carrier = variates.dtype.type
        with np.errstate(over="ignore"):
            elements = variates * carrier(draw.scale) + carrier(draw.shift)
        elements = np.minimum(np.maximum(elements, carrier(draw.low)), carrier(draw.high))
        return encode(elements.astype(carrier_of(self.dtype).name), self.dtype, draw.exponent)

    def _matrix(self, law: Orthogonal, number: int = 0) -> Patterns:
        """Return the bits of the elements of a matrix (rows * cols): the law N(0, gain^2) with Q as variates.

        In a stack, each matrix uses the normals after those of the matrices before it.
        """
        standard, size = settle(Normal(0.0, 1.0), carrier_of(self.dtype)), law.rows * law.cols
        normals = self._variates(standard, number * size + np.arange(size, dtype=np.uint64), Stream.GAUSSIAN)
        q = haar(normals.reshape(law.rows, law.cols))
        return self._settled(q.ravel(), settle(Normal(0.0, law.gain), self.dtype))

    def _is_zero(self, law: Sparse, at: Indices) -> Flags:
        """Whether elements are among the ``zeros`` smallest of their column, sorted by mask word and then by row."""
        rows, cols = np.divmod(at, np.uint64(law.cols))
        columns, column = np.unique(cols, return_inverse=True)
        grid = np.arange(law.rows, dtype=np.uint64)[:, None] * np.uint64(law.cols) + columns
        order = np.argsort(self._words(Stream.MASK, grid), axis=0, kind="stable")
        ranks: NDArray[np.intp] = np.argsort(order, axis=0)
        return ranks[rows, column] < law.zeros

    def _words(self, stream: Stream, at: Indices) -> Words:
        return words(derive_key(self.seed, self.name, stream), at)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a tensor: a law for a rectangle, and the name that its random words are derived from."""

    law: Law
    bounds: Bounds
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(stop - start for start, stop in self.bounds)


def tensor(whole: Prepared, shape: tuple[int, ...], parts: Iterable[Part]) -> Patterns:
    """Return the bits of the elements of a tensor of this shape that has parts, each over those before it."""
    elements = _all(whole, shape)
    for part in parts:
        of_its_own = Prepared(part.law, whole.dtype, whole.seed, part.name)
        elements[tuple(slice(*bounds) for bounds in part.bounds)] = _all(of_its_own, part.shape)
    return elements


def _all(prepared: Prepared, shape: tuple[int, ...]) -> Patterns:
    elements: Patterns = prepared.patterns(np.arange(prod(shape), dtype=np.uint64)).reshape(shape)
    return elements.astype(UNSIGNED[prepared.dtype.itemsize])  # of a packed dtype, with an item for each element


def in_view(at: Indices, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Indices:
    """Return where the elements of a view at some flat indices are in what it is a view of."""
    rest, place = at, np.zeros_like(at)
    for size, stride in zip(sizes[::-1], strides[::-1], strict=True):
        rest, here = np.divmod(rest, np.uint64(size))
        place += here * np.uint64(stride)
    return place


def on_lattice(law: Lattice, at: Indices) -> Flags:
    """Whether elements are points of a lattice."""
    distance: NDArray[np.int64] = at.astype(np.int64) - law.first
    i = np.clip(distance // max(law.strides[0], 1), 0, law.counts[0] - 1)
    distance -= i * law.strides[0]
    j = np.clip(distance // max(law.strides[1], 1), 0, law.counts[1] - 1)
    points: Flags = (distance == j * law.strides[1]) & (min(law.counts) > 0)
    return points


def single_variates(draw: Draw, high: Words) -> Singles:
    """Return the variates of a float32 draw."""
    if draw.variate is Variate.UNIFORM:
        odd = 2 * (high >> np.uint32(8)).astype(np.int32) + np.int32(1 - (1 << 24))
        return odd.astype(np.float32) * np.float32(2**-24)
    if isinstance(draw.window, Wide):
        product = high.astype(np.uint64) * np.uint64(draw.window.width)
        high = ((product >> np.uint64(32)) + np.uint64(draw.window.origin)).astype(np.uint32)
    return normal_singles(high)


def double_variates(draw: Draw, high: Words, low: Words) -> Doubles:
    """Return the variates of a float64 draw."""
    if draw.variate is Variate.UNIFORM:
        return (high.astype(np.float64) - 2.0**31) * 2.0**-31 + (2.0 * (low >> np.uint32(11)) + 1.0) * 2.0**-53
    if isinstance(draw.window, Narrow):
        return narrow_variates(draw.window, high, low)
    if isinstance(draw.window, Wide):
        high, low = _wide(draw.window, high, low)
    return normal_doubles(high, low)


def narrow_variates(window: Narrow, high: Words, low: Words) -> Doubles:
    """Return normal variates in a window of little probability, rising with the word."""
    if window.side > 0:
        high, low = ~high, ~low
    probability = window.start + unit(high, low) * window.span
    if window.side == 0:
        return signed_quantile(probability)
    return window.side * tail_quantile(log_tail(probability, window.exponent))


def _wide(window: Wide, high: Words, low: Words) -> tuple[Words, Words]:
    """Map 64-bit words into a window: ``origin + (w * width >> 64)``, in arrays of Python integers."""
    word = (high.astype(object) << 32) | low.astype(object)
    mapped = window.origin + (word * window.width >> 64)
    return (mapped >> 32).astype(np.uint32), (mapped & 0xFFFFFFFF).astype(np.uint32)
