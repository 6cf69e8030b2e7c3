"""Laws: distributions of a tensor's elements, with all numbers computed from shape, fans and parameters.

A scheme returns a law, and a generator draws laws only. Every index here is the flat row-major index in the *whole*
tensor. So a law needs no shape, and is the same for every slice of the tensor.

Each law has these attributes and methods: ``kind``, ``is_deterministic``, ``independent``, ``mean_std(size)``,
``words(size)``, ``extremes()``, ``element(size)``, ``singular_values(rows, cols)`` and ``spectral_radius(rows)``. The
last two are None where no law of them is known. ``independent``: a slice of a matrix has the same law of its spectrum.
"""

from dataclasses import dataclass
from math import fsum, ldexp, prod, sqrt
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightwell_engine import moments
from weightwell_engine.distributions import Mixture, NormalPart, SpherePart, UniformPart
from weightwell_engine.spectra import marchenko_pastur

Extremes = tuple[tuple[str, float], ...]
"""Numbers that must be in the range of the dtype, each with the parameter of a scheme that it usually comes from."""

Circle = Literal["disk", "circle"]

# Equally likely integers, of which each is an atom of its own.
_MOST_ATOMS = 1 << 16


class _Independent:
    """What laws of independent elements have in common, whose matrices have known spectra if they are large."""

    __slots__ = ()
    independent: ClassVar[bool] = True

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element."""
        raise NotImplementedError

    def singular_values(self, rows: int, cols: int) -> NDArray[np.float64] | None:
        """Return the singular values that are expected of a ``(rows, cols)`` matrix, descending (min(rows, cols))."""
        return marchenko_pastur(rows, cols, *self.mean_std(rows * cols))

    def spectral_radius(self, rows: int) -> tuple[float, Circle] | None:
        """Return the radius of the disk that the eigenvalues of a square matrix fill evenly, if the mean is zero.

        This is the circular law (Girko 1984; Tao & Vu 2010, Random matrices: universality of ESDs and the circular
        law).
        """
        mean, std = self.mean_std(rows * rows)
        return None if abs(mean) * rows > std * sqrt(rows) else (std * sqrt(rows), "disk")


class _Unknown:
    """What laws have in common whose matrices have no law of their spectra here."""

    __slots__ = ()
    independent: ClassVar[bool] = False

    def singular_values(self, _rows: int, _cols: int) -> NDArray[np.float64] | None:
        """Return None: no law is known."""
        return None

    def spectral_radius(self, _rows: int) -> tuple[float, Circle] | None:
        """Return None: no law is known."""
        return None


@dataclass(frozen=True, slots=True)
class Constant(_Unknown):
    """Every element is ``value``."""

    kind: ClassVar[str] = "constant"
    is_deterministic: ClassVar[bool] = True

    value: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random, of a tensor of ``size`` elements."""
        return self.value, 0.0

    def words(self, _size: int) -> str:
        """Return the law of a tensor of ``size`` elements as a phrase; numbers have three digits."""
        return f"{self.value:.3g} everywhere"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return (("val", self.value),)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        return Mixture.of([(self.value, 1.0)])


@dataclass(frozen=True, slots=True)
class Uniform(_Independent):
    """Independent draws from U[low, high]."""

    kind: ClassVar[str] = "uniform"
    is_deterministic: ClassVar[bool] = False

    low: float
    high: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element."""
        return self.low / 2 + self.high / 2, (self.high / 2 - self.low / 2) / sqrt(3.0)

    def words(self, _size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        return f"uniform in [{self.low:.3g}, {self.high:.3g}]"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold: the bounds, and the distance between them."""
        return ("a", self.low), ("b", self.high), ("b", self.high - self.low)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        if self.low == self.high:
            return Mixture.of([(self.low, 1.0)])
        return Mixture.of((), UniformPart(self.low, self.high))


@dataclass(frozen=True, slots=True)
class UniformIntegers(_Independent):
    """Independent draws from the integers ``low, low + 1 ... high - 1``, each as likely as the others; low < high."""

    kind: ClassVar[str] = "randint"
    is_deterministic: ClassVar[bool] = False

    low: int
    high: int

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element."""
        return (self.low + self.high - 1) / 2, sqrt(((self.high - self.low) ** 2 - 1) / 12)

    def words(self, _size: int) -> str:
        """Return the law as a phrase."""
        return f"uniform among the integers from {self.low} to {self.high - 1}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold. ``high`` itself is not drawn."""
        return ("low", self.low), ("high", self.high - 1)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element; that of very many integers is as good as continuous."""
        count = self.high - self.low
        if count > _MOST_ATOMS:
            return Mixture.of((), UniformPart(float(self.low), float(self.high)))
        return Mixture.of((float(each), 1 / count) for each in range(self.low, self.high))


@dataclass(frozen=True, slots=True)
class PowersOfTwo(_Independent):
    """Independent draws of ``2^k``, k uniform among the integers ``low, low + 1 ... high - 1``; low < high."""

    kind: ClassVar[str] = "power_of_two"
    is_deterministic: ClassVar[bool] = False

    low: int
    high: int

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element, by the sums of two geometric series."""
        count = self.high - self.low
        mean, square = (1 - 0.5**count) / count, (1 - 0.25**count) / (3 * count)
        return ldexp(mean, self.high), ldexp(sqrt(max(square - mean * mean, 0.0)), self.high)

    def words(self, _size: int) -> str:
        """Return the law as a phrase."""
        return f"2 to the power of an integer, uniform from {self.low} to {self.high - 1}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold: the plan checks the exponents, which have no such limits."""
        return ()

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element."""
        count = self.high - self.low
        return Mixture.of((ldexp(1.0, each), 1 / count) for each in range(self.low, self.high))


@dataclass(frozen=True, slots=True)
class Normal(_Independent):
    """Independent draws from N(mean, std^2), std >= 0."""

    kind: ClassVar[str] = "normal"
    is_deterministic: ClassVar[bool] = False

    mean: float
    std: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element."""
        return self.mean, self.std

    def words(self, _size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        return f"normal with mean {self.mean:.3g} and std {self.std:.3g}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return ("mean", self.mean), ("std", self.std)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        if self.std == 0.0:
            return Mixture.of([(self.mean, 1.0)])
        return Mixture.of((), NormalPart(self.mean, self.std))


@dataclass(frozen=True, slots=True)
class TruncatedNormal(_Independent):
    """Independent draws from N(mean, std^2) conditioned on [low, high]; the bounds are absolute, as in torch."""

    kind: ClassVar[str] = "truncated_normal"
    is_deterministic: ClassVar[bool] = False

    mean: float
    std: float
    low: float
    high: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element. They differ from ``mean`` and ``std`` of the normal law."""
        return moments.truncated_normal(self.mean, self.std, self.low, self.high)

    def words(self, size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        return f"{Normal(self.mean, self.std).words(size)}, truncated to [{self.low:.3g}, {self.high:.3g}]"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold. The bounds are not included: generators clamp them."""
        return ("mean", self.mean), ("std", self.std)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        if self.std == 0.0 or self.low == self.high:
            return Mixture.of([(min(max(self.mean, self.low), self.high), 1.0)])
        return Mixture.of((), NormalPart(self.mean, self.std, self.low, self.high))


@dataclass(frozen=True, slots=True)
class ClampedNormal(_Independent):
    """Independent draws from N(mean, std^2), of which those beyond ``[low, high]`` become the nearer bound; std > 0."""

    kind: ClassVar[str] = "clamped_normal"
    is_deterministic: ClassVar[bool] = False

    mean: float
    std: float
    low: float
    high: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element, which are not those of the normal that is clamped."""
        return moments.clamped_normal(self.mean, self.std, self.low, self.high)

    def words(self, size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        return f"{Normal(self.mean, self.std).words(size)}, clamped to [{self.low:.3g}, {self.high:.3g}]"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold: not the bounds, which every generator clamps to its range."""
        return ("mean", self.mean), ("std", self.std)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        if self.low == self.high:
            return Mixture.of([(self.low, 1.0)])
        below, above = moments.normal_beyond(self.mean, self.std, self.low, self.high)
        inner = NormalPart(self.mean, self.std, self.low, self.high) if below < 1 and above < 1 else None
        return Mixture.of([(self.low, below), (self.high, above)], inner)


@dataclass(frozen=True, slots=True)
class Lattice(_Unknown):
    """``value`` at the points of a lattice and zero elsewhere: identity matrices and Dirac kernels.

    The points are ``first + i * strides[0] + j * strides[1]`` for ``0 <= i < counts[0]``, ``0 <= j < counts[1]``, in
    ascending order: ``(counts[1] - 1) * strides[1] < strides[0]`` if there is more than one ``i``.
    """

    kind: ClassVar[str] = "lattice"
    is_deterministic: ClassVar[bool] = True

    value: float
    first: int
    strides: tuple[int, int]
    counts: tuple[int, int]

    def mean_std(self, size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random, of a tensor of ``size`` elements."""
        share = prod(self.counts) / max(size, 1)
        return self.value * share, abs(self.value) * sqrt(share * (1 - share))

    def words(self, size: int) -> str:
        """Return the law of a tensor of ``size`` elements as a phrase; numbers have three digits."""
        return f"{self.value:.3g} at {prod(self.counts)} of {size} places, 0 at the others"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return (("val", self.value),)

    def element(self, size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        share = prod(self.counts) / max(size, 1)
        return Mixture.of([(self.value, share), (0.0, 1.0 - share)])


@dataclass(frozen=True, slots=True)
class Values(_Unknown):
    """Given numbers, each of which may be at many places.

    The tensor is a view of an array of ``values``: its element with the index ``(x[0], x[1], ...)`` in axes of
    ``sizes`` is ``values[x[0] * strides[0] + x[1] * strides[1] + ...]``. Every value is at equally many places.
    """

    kind: ClassVar[str] = "values"
    is_deterministic: ClassVar[bool] = True

    values: tuple[float, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random."""
        largest, count = max(map(abs, self.values)) or 1.0, len(self.values)
        mean = fsum(value / largest for value in self.values) / count
        variance = fsum((value / largest - mean) ** 2 for value in self.values) / count
        return mean * largest, sqrt(variance) * largest

    def words(self, size: int) -> str:
        """Return the law of a tensor of ``size`` elements as a phrase; numbers have three digits."""
        count = len(self.values)
        numbers = "1 given number" if count == 1 else f"{count} given numbers"
        times = f", each at {size // count} places" if size > count else ""
        return f"{numbers} in [{min(self.values):.3g}, {max(self.values):.3g}]{times}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return ("values", min(self.values)), ("values", max(self.values))

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        return Mixture.of((value, 1.0 / len(self.values)) for value in self.values)


@dataclass(frozen=True, slots=True)
class Sparse(_Independent):
    """A ``(rows, cols)`` matrix of N(0, std^2). In every column, ``zeros`` randomly chosen elements are zero."""

    kind: ClassVar[str] = "sparse"
    is_deterministic: ClassVar[bool] = False

    rows: int
    cols: int
    zeros: int
    std: float

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random."""
        return 0.0, self.std * sqrt(1 - self.zeros / max(self.rows, 1))

    def words(self, _size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        return f"normal with std {self.std:.3g}, but {self.zeros} of the {self.rows} elements of every column are 0"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return (("std", self.std),)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        share = self.zeros / max(self.rows, 1)
        inner = NormalPart(0.0, self.std) if share < 1 and self.std > 0 else None
        return Mixture.of([(0.0, share if inner else 1.0)], inner)


@dataclass(frozen=True, slots=True)
class Orthogonal(_Unknown):
    """``gain`` times a Haar-random ``(rows, cols)`` matrix with orthonormal rows or columns, whichever are fewer.

    Element ``(r, c)`` of the matrix is element ``(r * cols + c) * taps + centre`` of the tensor. All others are zero.
    ``taps`` is 1 for a plain matrix. It is the size of the receptive field for a delta-orthogonal kernel.
    """

    kind: ClassVar[str] = "orthogonal"
    is_deterministic: ClassVar[bool] = False

    rows: int
    cols: int
    gain: float
    taps: int = 1
    centre: int = 0

    def mean_std(self, _size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random.

        They follow from symmetry: the squares of a row, or of a column, sum to ``gain^2``.
        """
        return 0.0, abs(self.gain) / sqrt(max(self.rows, self.cols, 1) * self.taps)

    def words(self, _size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        place = " in the middle of the kernel" if self.taps > 1 else ""
        return f"{self.gain:.3g} times a random orthogonal matrix of {self.rows} x {self.cols}{place}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return (("gain", self.gain),)

    def element(self, _size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        dimension, radius, other = max(self.rows, self.cols, 1), abs(self.gain), 1.0 - 1.0 / self.taps
        if radius == 0.0:
            return Mixture.of([(0.0, 1.0)])
        if dimension == 1:
            return Mixture.of([(0.0, other), (radius, 0.5 / self.taps), (-radius, 0.5 / self.taps)])
        return Mixture.of([(0.0, other)], SpherePart(radius, dimension))

    def singular_values(self, rows: int, cols: int) -> NDArray[np.float64] | None:
        """Return the singular values of the whole matrix: all are ``abs(gain)``. None for another shape."""
        if (rows, cols) != (self.rows, self.cols * self.taps):
            return None
        return np.full(min(self.rows, self.cols), abs(self.gain))

    def spectral_radius(self, rows: int) -> tuple[float, Circle] | None:
        """Return the radius of the circle that has all eigenvalues of a square matrix. None for another shape."""
        return (abs(self.gain), "circle") if rows == self.rows == self.cols and self.taps == 1 else None


@dataclass(frozen=True, slots=True)
class OrthogonalStack(_Unknown):
    """``count`` independent ``Orthogonal`` matrices, in a tensor with its axes in any order.

    The stack holds the matrices one after the other: element ``(r, c)`` of matrix ``b`` is element
    ``((b * rows + r) * cols + c) * taps + centre`` of the stack. The tensor is a transposed view of the stack: the
    element with index ``(x[0], x[1], ...)`` in axes of ``sizes`` is element
    ``x[0] * strides[0] + x[1] * strides[1] + ...`` of the stack.
    """

    kind: ClassVar[str] = "orthogonal_stack"
    is_deterministic: ClassVar[bool] = False

    rows: int
    cols: int
    gain: float
    taps: int
    centre: int
    count: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def each(self) -> Orthogonal:
        """The law of a single matrix."""
        return Orthogonal(self.rows, self.cols, self.gain, self.taps, self.centre)

    def mean_std(self, size: int) -> tuple[float, float]:
        """Return mean and standard deviation of an element picked at random."""
        return self.each.mean_std(size)

    def words(self, size: int) -> str:
        """Return the law as a phrase; numbers have three digits."""
        if self.count == 1:
            return self.each.words(size)
        place = " in the middle of each kernel" if self.taps > 1 else ""
        what = f"{self.count} independent random orthogonal matrices of {self.rows} x {self.cols}"
        return f"{self.gain:.3g} times {what}{place}"

    def extremes(self) -> Extremes:
        """Return the numbers that the dtype must hold."""
        return self.each.extremes()

    def element(self, size: int) -> Mixture:
        """Return the distribution of an element picked at random, of a tensor of ``size`` elements."""
        return self.each.element(size)


Law = (
    Constant
    | Uniform
    | UniformIntegers
    | PowersOfTwo
    | Normal
    | TruncatedNormal
    | ClampedNormal
    | Lattice
    | Values
    | Sparse
    | Orthogonal
    | OrthogonalStack
)

KINDS: tuple[str, ...] = tuple(law.kind for law in get_args(Law))
