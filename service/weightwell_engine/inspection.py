"""Inspection: statistics of one tensor, next to the expected values of its law.

The tensor is drawn block by block, and no block is kept. So the memory does not depend on the size of the tensor. The
exception is a small matrix, which is kept for its spectrum.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from math import ceil, floor, isfinite, log2, prod, sqrt
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import ThreadpoolController

from weightwell_engine.catalogue import GeneratorEntry
from weightwell_engine.description import TensorDescription
from weightwell_engine.distributions import Mixture
from weightwell_engine.dtypes import DType
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.plan import PlannedTensor
from weightwell_engine.virtual_file import VirtualFile

Array = NDArray[np.float64]

# Elements of a block: so few that its arrays stay in the processor's cache.
BLOCK = 1 << 15

# The fine histogram, from which quantiles and the histogram of the answer are made, has at most twice as many bins.
_FINE = 1 << 16

# The most bins of the histogram, and rows and columns of the heat map, of an answer.
MOST_BINS = 96
MOST_CELLS = 48

# The largest matrices whose singular values (smaller size; elements) and eigenvalues (rows) are computed. On a slow
# processor each takes half a second.
MOST_SINGULAR = 512
MOST_KEPT = 1 << 20
MOST_EIGEN = 256

# Approximate nanoseconds of one thread for the statistics of an element.
_ELEMENT = 40

PROBABILITIES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)

# A dtype's numpy dtype.
_NUMPY = {
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
}

Number = float | None
"""A finite number; None for one that does not exist or overflows."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment: ``measured``, the ``standard_error`` of the measurement, and what the law says, ``theory``.

    The standard error is that of independent elements. It is None for a law without randomness.
    """

    measured: Number
    standard_error: Number
    theory: Number


@dataclass(frozen=True, slots=True)
class Moments:
    """The first four moments. The kurtosis of a normal law is 3."""

    mean: Moment
    std: Moment
    skewness: Moment
    kurtosis: Moment


@dataclass(frozen=True, slots=True)
class Quantiles:
    """``values[i]``: the value below which ``probabilities[i]`` of the elements are.

    They are interpolated in bins whose width is at most 1/32768 of the range of the law.
    """

    probabilities: tuple[float, ...]
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts[i]`` elements are in [edges[i], edges[i + 1]). The width of every bin is the same power of two.

    ``expected[i]``: the number that the law expects there, after rounding to the dtype; None if the tensor has parts.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The tensor as a matrix of ``rows`` x ``cols`` elements, in at most 48 x 48 cells.

    The rows are the first dimension, and the columns all others. A cell is the mean of its elements, with four digits.
    """

    rows: int
    cols: int
    cells: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True, slots=True)
class SingularValues:
    """The singular values of the matrix, descending.

    ``expected``: for independent elements the quantiles of the law of Marchenko and Pastur, for an orthogonal matrix
    its gain; None where no law is known.
    """

    measured: tuple[float, ...]
    expected: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Eigenvalues:
    """The eigenvalues of a square matrix: their real and imaginary parts.

    ``radius``, ``law``: for independent elements they fill a disk evenly (the circular law), and those of an orthogonal
    matrix are on a circle; None where no law is known.
    """

    real: tuple[float, ...]
    imaginary: tuple[float, ...]
    radius: float | None
    law: Literal["disk", "circle"] | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the numbers of one tensor are like, next to what its law says of them.

    ``note``: why there are no singular values or eigenvalues; None if there are.
    """

    name: str
    tensor: TensorDescription
    generator: GeneratorEntry
    etag: Annotated[str, Field(description="the ETag of the file at `/init`")]
    nbytes: Annotated[int, Field(description="the size of that file")]
    count: Annotated[int, Field(description="the number of elements")]
    smallest: Number
    largest: Number
    zeros: Annotated[int, Field(description="the number of elements that are zero")]
    moments: Moments
    quantiles: Quantiles
    histogram: Histogram
    heat_map: HeatMap
    singular_values: SingularValues | None
    eigenvalues: Eigenvalues | None
    note: str | None


def check(file: VirtualFile, *, most_nanoseconds: int | None = None) -> None:
    """Raise ``InvalidSpec`` unless a file has one tensor with elements, and ``TooLarge`` for too much work."""
    count = len(file.plan.tensors)
    if count != 1:
        raise InvalidSpec("tensors", got=count, expected="one tensor, to be inspected")
    (tensor,) = file.plan.tensors
    if not tensor.size:
        raise InvalidSpec("shape", got=list(tensor.region.extent), expected="a tensor with elements, to be inspected")
    if most_nanoseconds is None:
        return
    if tensor.size * _ELEMENT + file.cost(0, file.nbytes, limit=most_nanoseconds) >= most_nanoseconds:
        raise TooLarge(
            f"to inspect {tensor.size} elements would take more than {most_nanoseconds / 1e9:g} s of a processor, the "
            f"limit of this server; inspect a slice of fewer than {most_nanoseconds // _ELEMENT} elements"
        )


def memory(file: VirtualFile) -> int:
    """Return the approximate bytes of memory that an inspection needs, without the matrices of the generator."""
    return 24 * BLOCK * 8 + 4 * _FINE * 8 + 4 * sum(8 * tensor.size for tensor in file.plan.tensors if _kept(tensor))


def inspect(
    file: VirtualFile, tensor: TensorDescription, generator: GeneratorEntry
) -> Generator[None, None, Inspection]:
    """Inspect a file of one tensor, which ``tensor`` describes; yield after every block of it.

    Raises the errors of drawing, and ``DrawingStopped`` if the file is closed meanwhile.
    """
    (planned,) = file.plan.tensors
    law, size = planned.law, _size(planned)
    mean, std = law.mean_std(size)
    element = None if planned.parts else law.element(size)
    random = not all(layer.law.is_deterministic for layer in (planned, *planned.parts))
    rows, cols = _matrix_shape(planned)
    sums = _Sums(mean, std)
    bins = _Bins(_rounded(*(element.support if element else _support(planned)), planned.dtype))
    cells = _Cells(rows, cols)
    kept = np.empty((rows, cols)) if _kept(planned) else None
    dtype, step = _dtype(planned.dtype), BLOCK
    offset = len(file.plan.header) + planned.offset
    for start in range(0, planned.size, step):
        raw = np.empty(min(step, planned.size - start), dtype)
        file.read_into(offset + start * dtype.itemsize, raw.view(np.uint8).data)
        values = _values(raw, planned.dtype)
        start *= planned.dtype.packed
        sums.add(values)
        bins.add(values)
        cells.add(start, values)
        if kept is not None:
            kept.reshape(-1)[start : start + values.size] = values
        yield
    singular, eigen = None, None
    if kept is not None:
        singular = _singular_values(kept, planned)
        yield
        eigen = _eigenvalues(kept, planned)
    return Inspection(
        name=planned.name,
        tensor=tensor,
        generator=generator,
        etag=file.etag,
        nbytes=file.nbytes,
        count=prod(planned.extent),
        smallest=_finite(sums.smallest),
        largest=_finite(sums.largest),
        zeros=sums.zeros,
        moments=sums.moments(None if element is None else (mean, std, element), random=random),
        quantiles=Quantiles(PROBABILITIES, tuple(map(_finite, bins.quantiles(sums.smallest, sums.largest)))),
        histogram=bins.histogram(element, planned.dtype),
        heat_map=cells.heat_map(),
        singular_values=singular,
        eigenvalues=eigen,
        note=None if kept is not None else _note(planned),
    )


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _size(tensor: PlannedTensor) -> int:
    """Return the number of elements of the whole tensor."""
    return prod(tensor.region.shape) * tensor.dtype.packed


def _values(raw: NDArray[np.generic], dtype: DType) -> Array:
    """Return items (n) as numbers: n, or 2 n if an item has two elements."""
    if dtype.packed == 1:
        return raw.astype(np.float64)
    return _unpacked(np.stack([raw & 15, raw >> 4], axis=1).ravel())  # type: ignore[operator]


def _unpacked(codes: NDArray[np.uint8]) -> Array:
    return np.asarray(codes.view(ml_dtypes.float4_e2m1fn), np.float64)


def _dtype(dtype: DType) -> np.dtype[np.generic]:
    if dtype.packed > 1:
        return np.dtype(np.uint8)
    return _NUMPY.get(dtype.name) or np.dtype(dtype.name).newbyteorder("<")


def _matrix_shape(tensor: PlannedTensor) -> tuple[int, int]:
    """Return the sizes of the tensor as a matrix: the first dimension, and all others."""
    extent = tensor.extent
    return (extent[0], prod(extent[1:])) if len(extent) > 1 else (1, prod(extent))


def _kept(tensor: PlannedTensor) -> bool:
    """Whether the matrix is kept for its spectrum."""
    return (
        len(tensor.region.extent) > 1
        and min(_matrix_shape(tensor)) <= MOST_SINGULAR
        and prod(tensor.extent) <= MOST_KEPT
    )


def _note(tensor: PlannedTensor) -> str:
    if len(tensor.region.extent) < 2:
        return "no singular values: the tensor is no matrix"
    rows, cols = _matrix_shape(tensor)
    return (
        f"no singular values: the matrix is {rows} x {cols}, and they are computed up to {MOST_KEPT} elements with a "
        f"smaller size of at most {MOST_SINGULAR}; inspect a slice"
    )


def _support(tensor: PlannedTensor) -> tuple[float, float]:
    """Return an interval for the elements of a tensor with parts."""
    ends = [layer.law.element(_size(layer)).support for layer in (tensor, *tensor.parts)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _rounded(low: float, high: float, dtype: DType) -> tuple[float, float]:
    """Return an interval that has all numbers of another one after they are rounded to a dtype."""
    if not dtype.is_real or dtype.packed > 1:
        return low, high
    ends = np.array([low, high])
    with np.errstate(all="ignore"):
        moved = np.nextafter(ends.astype(_dtype(dtype)), np.array([-dtype.max, dtype.max], _dtype(dtype)))
    found = np.where(np.isfinite(moved), moved.astype(np.float64), ends)
    return min(low, float(found[0])), max(high, float(found[1]))


class _Sums:
    """Sums of the first eight powers of the elements, standardized by the law, so that no digits are lost."""

    def __init__(self, mean: float, std: float):
        self._mean = mean
        self._std = std or 1.0
        self._powers = np.zeros(9)
        self.zeros = 0
        self.smallest, self.largest = np.inf, -np.inf

    def add(self, values: Array) -> None:
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        self.zeros += values.size - int(np.count_nonzero(values))
        with np.errstate(all="ignore"):
            z = (values - self._mean) / self._std
            z2 = z * z
            z3, z4 = z2 * z, z2 * z2
            products = (z2, z3), (z3, z3), (z3, z4), (z4, z4)
            self._powers += [z.size, z.sum(), z2.sum(), z3.sum(), z4.sum(), *((a * b).sum() for a, b in products)]

    def moments(self, theory: tuple[float, float, Mixture] | None, *, random: bool) -> Moments:
        """Return the moments; ``theory``: mean, standard deviation and distribution of an element, or None."""
        n = self._powers[0]
        with np.errstate(all="ignore"):
            m = _central(self._powers / n)
            s = np.sqrt(max(m[2], 0.0))
            skewness, kurtosis = m[3] / s**3, m[4] / s**4
            measured = self._mean + self._std * self._powers[1] / n, self._std * s, skewness, kurtosis
            errors = self._errors(m, s, skewness, kurtosis) / sqrt(n)
        shape = theory[2].skewness_kurtosis(theory[0], theory[1]) if theory else None
        expected = (*(theory[:2] if theory else (None, None)), *(shape or (None, None)))
        return Moments(
            *(
                Moment(_finite(each), _finite(error) if random else None, None if said is None else _finite(said))
                for each, error, said in zip(measured, errors, expected, strict=True)
            )
        )

    def _errors(self, m: Array, s: float, skewness: float, kurtosis: float) -> Array:
        """Return the standard errors times sqrt(n), from central moments ``m`` up to the eighth.

        The delta method: each is the standard deviation of the influence of an element z, which is for the mean z, for
        the standard deviation (z^2 - 1) / 2, for the skewness g z^3 - 3 z - 3/2 g (z^2 - 1) - g, and for the kurtosis k
        z^4 - 4 g z - 2 k (z^2 - 1) - k.
        """
        u = m / s ** np.arange(9)  # of the standardized elements
        third = np.array([skewness / 2, -3.0, -1.5 * skewness, 1.0])
        fourth = np.array([kurtosis, -4 * skewness, -2 * kurtosis, 0.0, 1.0])
        return np.array(
            [
                self._std * s,
                self._std * s / 2 * np.sqrt(u[4] - 1),
                np.sqrt(_mean_square(third, u)),
                np.sqrt(_mean_square(fourth, u)),
            ]
        )


def _mean_square(polynomial: Array, moments: Array) -> float:
    """Return E[p(z)^2] from the moments of z."""
    square = np.convolve(polynomial, polynomial)
    return max(float(square @ moments[: square.size]), 0.0)


def _central(raw: Array) -> Array:
    """Return the central moments 0 ... 8 from the raw ones."""
    mean, found = raw[1], np.zeros(9)
    binomials = np.array([1.0])
    for order in range(9):
        found[order] = sum(c * raw[k] * (-mean) ** (order - k) for k, c in enumerate(binomials))
        binomials = np.convolve(binomials, [1.0, 1.0])
    return found


class _Bins:
    """A fine histogram over an interval, which has at most 2 ``_FINE`` bins; elements beyond count in its last bins.

    The width of the bins is a power of two, and their edges are multiples of it. So it is exact in which bin an element
    is.
    """

    def __init__(self, support: tuple[float, float]):
        low, high = support
        span = high / 2 - low / 2
        if span == 0.0:
            span = max(abs(low), 2.0**-1000) / 2
            low, high = low - span, high + span
        self.width = 2.0 ** max(ceil(log2(max(span / _FINE, 2.0**-1074))) + 1, -1060)
        self._first = floor(low / self.width) - 1
        self._counts = np.zeros(floor(high / self.width) - self._first + 2, np.int64)

    def add(self, values: Array) -> None:
        with np.errstate(all="ignore"):
            places = np.floor(values / self.width) - self._first
        indices = np.clip(places, 0, self._counts.size - 1).astype(np.int64)
        self._counts += np.bincount(indices, minlength=self._counts.size)

    def quantiles(self, smallest: float, largest: float) -> list[float]:
        summed = np.concatenate([[0], np.cumsum(self._counts)])
        ranks = np.array(PROBABILITIES) * summed[-1]
        places = np.searchsorted(summed, ranks, side="left") - 1
        inside = (ranks - summed[places]) / self._counts[places]
        found = (self._first + places + inside) * self.width
        return [float(each) for each in np.clip(found, smallest, largest)]

    def histogram(self, element: Mixture | None, dtype: DType) -> Histogram:
        used = np.flatnonzero(self._counts)
        first, last = self._first + int(used[0]), self._first + int(used[-1])
        group = 1
        while last // group - first // group + 1 > MOST_BINS:
            group *= 2
        start, stop = first // group, last // group + 1
        padded = np.zeros((stop - start) * group, np.int64)
        begin = first - start * group
        padded[begin : begin + last - first + 1] = self._counts[used[0] : used[-1] + 1]
        counts = padded.reshape(-1, group).sum(axis=1)
        edges = np.arange(start, stop + 1).astype(np.float64) * (group * self.width)
        expected = None
        if element is not None:
            below = element.below(_boundaries(edges, dtype))
            expected = tuple(float(each) for each in np.diff(below) * counts.sum())
        return Histogram(tuple(map(float, edges)), tuple(map(int, counts)), expected)


def _boundaries(edges: Array, dtype: DType) -> Array:
    """Return the numbers from which on a number is rounded to at least an edge, for each edge (n)."""
    if not dtype.is_real:
        return edges
    if dtype.packed > 1:
        grid = np.unique(_unpacked(np.arange(16, dtype=np.uint8)))
        ends = np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]])
        return np.asarray(ends[np.searchsorted(grid, edges)])
    kind = _dtype(dtype)
    with np.errstate(all="ignore"):
        above = edges.astype(kind)
        infinity = np.array(np.inf if dtype.name != "float8_e4m3fn" else dtype.max, kind)
        above = np.where(above.astype(np.float64) < edges, np.nextafter(above, infinity), above)
        below = np.nextafter(above, -infinity)
        found: Array = (above.astype(np.float64) + below.astype(np.float64)) / 2
    return np.where(np.isfinite(found), found, edges)


class _Cells:
    """Sums over the cells of a heat map."""

    def __init__(self, rows: int, cols: int):
        self._rows, self._cols = rows, cols
        self._row_edges = np.arange(min(rows, MOST_CELLS) + 1) * rows // min(rows, MOST_CELLS)
        self._col_edges = np.arange(min(cols, MOST_CELLS) + 1) * cols // min(cols, MOST_CELLS)
        self._sums = np.zeros((self._row_edges.size - 1, self._col_edges.size - 1))

    def add(self, start: int, values: Array) -> None:
        """Add the elements from ``start`` on."""
        row, col = divmod(start, self._cols)
        if col:
            part = values[: self._cols - col]
            self._add_rows(row, col, part[None])
            values, row = values[part.size :], row + 1
        whole = values.size // self._cols
        if whole:
            self._add_rows(row, 0, values[: whole * self._cols].reshape(whole, self._cols))
        if rest := values[whole * self._cols :].size:
            self._add_rows(row + whole, 0, values[-rest:][None])

    def _add_rows(self, row: int, col: int, block: Array) -> None:
        """Add a block whose first element is at a row and a column."""
        columns, at_col = _starts(self._col_edges, col, col + block.shape[1])
        lines, at_row = _starts(self._row_edges, row, row + block.shape[0])
        with np.errstate(all="ignore"):
            summed = np.add.reduceat(np.add.reduceat(block, columns, axis=1), lines, axis=0)
            self._sums[at_row : at_row + lines.size, at_col : at_col + columns.size] += summed

    def heat_map(self) -> HeatMap:
        with np.errstate(all="ignore"):
            means = self._sums / np.outer(np.diff(self._row_edges), np.diff(self._col_edges))
        cells = tuple(tuple(float(f"{each:.4g}") if isfinite(each) else None for each in row) for row in means)
        return HeatMap(self._rows, self._cols, cells)


def _starts(edges: NDArray[np.int64], start: int, stop: int) -> tuple[NDArray[np.int64], int]:
    """Return where the cells of ``start ... stop - 1`` begin, counted from ``start``, and the number of the first."""
    first = int(np.searchsorted(edges, start, side="right")) - 1
    last = int(np.searchsorted(edges, stop, side="left"))
    return np.maximum(edges[first:last] - start, 0), first


@cache
def _blas() -> Any:
    return ThreadpoolController().select(internal_api="openblas")


def _one_thread() -> AbstractContextManager[object]:
    """Let numpy's linear algebra use one thread. On a busy machine, several wait for each other ten times as long."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit


def _singular_values(matrix: Array, tensor: PlannedTensor) -> SingularValues:
    rows, cols = matrix.shape
    with _one_thread():
        found = np.linalg.svd(matrix, compute_uv=False)
    whole = tensor.region.is_whole
    known = None if tensor.parts or not (whole or tensor.law.independent) else tensor.law.singular_values(rows, cols)
    return SingularValues(tuple(map(float, found)), None if known is None else tuple(map(float, known)))


def _eigenvalues(matrix: Array, tensor: PlannedTensor) -> Eigenvalues | None:
    rows, cols = matrix.shape
    if rows != cols or rows > MOST_EIGEN:
        return None
    with _one_thread():
        found = np.linalg.eigvals(matrix)
    whole = tensor.region.is_whole
    known = None if tensor.parts or not (whole or tensor.law.independent) else tensor.law.spectral_radius(rows)
    radius, law = known or (None, None)
    return Eigenvalues(tuple(map(float, found.real)), tuple(map(float, found.imag)), radius, law)
