"""Distributions of one element of a tensor, from its law.

A ``Mixture`` has atoms, which are values with a probability each, and at most one continuous part. The continuous
parts are standardized: ``location + scale * x`` has the distribution of the element.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import erf, erfc, exp, inf, pi, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weightwell_engine import moments

Array = NDArray[np.float64]

# A normal law has a value beyond this many standard deviations with probability 1e-15.
REACH = 8.0

# Nodes of the table of the sphere's distribution function. Its error is then below 1e-7.
_NODES = 8192

# Beyond this many standard deviations, the tail of a normal law is computed by its asymptotic form.
_FAR = 25.0


class Continuous(Protocol):
    """A continuous distribution. ``support`` is an interval that has all but 1e-15 of the probability."""

    @property
    def support(self) -> tuple[float, float]:
        """The interval."""

    @property
    def moments(self) -> tuple[float, float, float, float]:
        """Mean, standard deviation, skewness and kurtosis (3 for a normal law)."""

    def below(self, x: Array) -> Array:
        """Return the probability of a value of at most x, for each x (n)."""


@dataclass(frozen=True, slots=True)
class UniformPart:
    """U[low, high], low < high."""

    low: float
    high: float

    @property
    def support(self) -> tuple[float, float]:
        """The bounds."""
        return self.low, self.high

    @property
    def moments(self) -> tuple[float, float, float, float]:
        """Mean, standard deviation, skewness and kurtosis."""
        return self.low / 2 + self.high / 2, (self.high / 2 - self.low / 2) / sqrt(3.0), 0.0, 1.8

    def below(self, x: Array) -> Array:
        """Return the distribution function at each x (n)."""
        return np.clip((x / 2 - self.low / 2) / (self.high / 2 - self.low / 2), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class NormalPart:
    """N(mean, std^2) conditioned on ``[low, high]``, std > 0."""

    mean: float
    std: float
    low: float = -inf
    high: float = inf

    @property
    def support(self) -> tuple[float, float]:
        """The bounds, at most ``REACH`` standard deviations from the most likely value."""
        mode = min(max(self.mean, self.low), self.high)
        return max(self.low, mode - REACH * self.std), min(self.high, mode + REACH * self.std)

    @property
    def moments(self) -> tuple[float, float, float, float]:
        """Mean, standard deviation, skewness and kurtosis."""
        if (self.low, self.high) == (-inf, inf):
            return self.mean, self.std, 0.0, 3.0
        bounds = self.low, self.high
        return (
            *moments.truncated_normal(self.mean, self.std, *bounds),
            *moments.truncated_normal_shape(self.mean, self.std, *bounds),
        )

    def below(self, x: Array) -> Array:
        """Return the distribution function at each x (n)."""
        a, b = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        z = np.clip((x - self.mean) / self.std, a, b)
        if b < 0:  # the upper tail has the digits
            return 1.0 - _beyond(-z, -b, -a)
        return _beyond(z, a, b)


def _beyond(z: Array, a: float, b: float) -> Array:
    """Return the probability that N(0, 1) conditioned on ``[a, b]``, b >= 0, is at most z, for each z (n) in it."""
    if a > _FAR:
        tail = np.array([(a / each) * exp(-(each - a) * (each + a) / 2) if each < inf else 0.0 for each in (*z, b)])
        return np.asarray((1.0 - tail[:-1]) / (1.0 - tail[-1]))
    if a > 0:
        tail = np.array([erfc(each / sqrt(2.0)) for each in (*z, a, b)])
        return np.asarray((tail[-2] - tail[:-2]) / (tail[-2] - tail[-1]))
    values = np.array([erf(each / sqrt(2.0)) for each in (*z, a, b)])
    return np.asarray((values[:-2] - values[-2]) / (values[-1] - values[-2]))


@dataclass(frozen=True, slots=True)
class SpherePart:
    """``radius`` times a coordinate of a point that is uniform on the unit sphere in ``dimension`` >= 2 dimensions.

    Its density at x is proportional to (1 - x^2)^((dimension - 3) / 2) in [-1, 1].
    """

    radius: float
    dimension: int

    @property
    def support(self) -> tuple[float, float]:
        """The bounds, at most ``REACH`` standard deviations from zero."""
        reach = self.radius * min(1.0, REACH / sqrt(self.dimension))
        return -reach, reach

    @property
    def moments(self) -> tuple[float, float, float, float]:
        """Mean, standard deviation, skewness and kurtosis."""
        return 0.0, self.radius / sqrt(self.dimension), 0.0, 3.0 * self.dimension / (self.dimension + 2)

    def below(self, x: Array) -> Array:
        """Return the distribution function at each x (n).

        With x = sin(t), the density of the angle t is proportional to cos(t)^(dimension - 2).
        """
        reach = min(pi / 2, 10.0 / sqrt(self.dimension))
        angles = np.linspace(-reach, reach, _NODES)
        with np.errstate(divide="ignore"):
            density = np.exp((self.dimension - 2) * np.log(np.maximum(np.cos(angles), 1e-300)))
        steps = (density[1:] + density[:-1]) / 2
        table = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
        return np.asarray(np.interp(np.arcsin(np.clip(x / self.radius, -1.0, 1.0)), angles, table))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Atoms and at most one continuous part.

    ``values`` (n), ascending, and their ``shares`` (n) are the atoms; ``part`` has the rest of the probability.
    """

    values: Array
    shares: Array
    part: Continuous | None = None

    @classmethod
    def of(cls, atoms: Iterable[tuple[float, float]], part: Continuous | None = None) -> "Mixture":
        """Return the mixture of ``(value, share)`` atoms, in any order, and a part that has the rest."""
        listed = sorted((value, share) for value, share in atoms if share > 0)
        values, shares = zip(*listed, strict=True) if listed else ((), ())
        return cls(np.array(values, np.float64), np.array(shares, np.float64), part)

    @property
    def support(self) -> tuple[float, float]:
        """An interval that has all but 1e-15 of the probability."""
        ends = [self.part.support] if self.part else []
        ends += [(float(self.values[0]), float(self.values[-1]))] if self.values.size else []
        return min(low for low, _ in ends), max(high for _, high in ends)

    def below(self, x: Array) -> Array:
        """Return the probability of a value below x, for each x (n). An atom at x does not count."""
        summed = np.concatenate([[0.0], np.cumsum(self.shares)])
        found: Array = summed[np.searchsorted(self.values, x, side="left")]
        if self.part is not None:
            found = found + (1.0 - summed[-1]) * self.part.below(x)
        return found

    def skewness_kurtosis(self, mean: float, std: float) -> tuple[float, float] | None:
        """Return skewness and kurtosis (3 for a normal law), given mean and standard deviation; None if std is 0."""
        if std == 0.0:
            return None
        with np.errstate(all="ignore"):
            d = (self.values - mean) / std
            third, fourth = float(self.shares @ d**3), float(self.shares @ d**4)
            if self.part is not None:
                share = 1.0 - float(self.shares.sum())
                centre, spread, skewness, kurtosis = self.part.moments
                e, r = np.float64(centre - mean) / std, np.float64(spread) / std
                third += share * float(skewness * r**3 + 3 * e * r**2 + e**3)
                fourth += share * float(kurtosis * r**4 + 4 * e * skewness * r**3 + 6 * e**2 * r**2 + e**4)
        return third, fourth
