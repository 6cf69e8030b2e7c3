"""Mean-field theory of one wide layer: how the variance and the correlation of its pre-activations change.

In a layer of infinitely many units with independent zero-mean weights, the pre-activations are normal. The next layer
depends only on their variance q and on the correlation c of two inputs:

    q' = weight_variance * E[f(sqrt(q) z)^2] + bias_variance
    q' c' = weight_variance * E[f(u) f(v)] + bias_variance,   u, v normal with variance q and correlation c

``weight_variance`` is fan_in times the variance of a weight. chi_1 = weight_variance * E[f'(sqrt(q) z)^2] is the slope
of c -> c' at c = 1, and the factor on the squared gradient: below 1 the layers are ordered, above 1 chaotic.

Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from weightwell_engine.quadrature import Activation, Array, normal_rule

Stability = Literal["stable", "unstable", "marginal"]

# Hermite coefficients of an activation function that are computed; the rest are summed as two terms.
_ORDER = 64

# Octaves of panels towards 0 at q = 1; larger q makes a function bend nearer to 0.
_OCTAVES, _MOST_OCTAVES = 12, 80

# Slopes this near to 1 are marginal: the quadrature is more accurate, but a scheme's variance is rounded.
_MARGINAL = 1e-6

# Where fixed points are looked for.
GRID = np.logspace(-6, 6, 73)

# A q that stands for 0, where f(sqrt(q) z) would be a constant.
TINY = 1e-12


class Gaussian:
    """An activation function f at u = sqrt(q) z, z ~ N(0, 1), and its moments. ``q`` > 0 is finite."""

    def __init__(self, row: Activation, values: tuple[float, ...], q: float):
        scale = math.sqrt(q)
        octaves = min(_OCTAVES + max(math.ceil(math.log2(scale)), 0), _MOST_OCTAVES)
        kinks = tuple(sign * kink / scale for kink in row.kinks(*values) for sign in (-1.0, 1.0))  # symmetric nodes
        self.q = q
        self._z, self._weights = normal_rule(kinks, octaves)
        with np.errstate(over="ignore"):
            self._f = row.function(scale * self._z, *values)
            self._slopes = None if row.derivative is None else row.derivative(scale * self._z, *values)
            self._at_0 = float(row.function(np.zeros(1), *values)[0])

    @cached_property
    def mean(self) -> float:
        """E[f(u)]."""
        return math.fsum((self._weights * self._f).tolist())  # exact, so that it is 0 for an odd function

    @cached_property
    def second_moment(self) -> float:
        """E[f(u)^2]."""
        return self._expectation(self._f**2)

    @cached_property
    def second_moment_slope(self) -> float:
        """The derivative of E[f(u)^2] with respect to q: E[f(u)^2 (z^2 - 1)] / (2 q), by the heat equation."""
        centred = (self._f - self._at_0) * (self._f + self._at_0)  # E[z^2 - 1] = 0, so a constant changes nothing
        return self._expectation(centred * (self._z**2 - 1.0)) / (2.0 * self.q)

    @cached_property
    def squared_derivative(self) -> float | None:
        """E[f'(u)^2]; None for a function with jumps, where it is infinite."""
        return None if self._slopes is None else self._expectation(self._slopes**2)

    def product(self, c: float) -> float:
        """E[f(u) f(v)], where v has the correlation ``c`` with u, in [-1, 1].

        By Mehler's formula this is the sum of a_n^2 c^n, where a_n are the Hermite coefficients of f. The terms above
        order 64 are summed as one even and one odd power with the right value, and the right slope, at c = 1. The
        error is at most 1e-4 of E[f(u)^2].
        """
        powers = c ** np.arange(_ORDER + 1)
        tails = [share * abs(c) ** power * (math.copysign(1.0, c) if odd else 1.0) for share, power, odd in self._tails]
        return float(np.dot(self._squares, powers)) + math.fsum(tails)

    def product_slope(self, c: float) -> float:
        """Return the derivative of ``product`` by c."""
        orders = np.arange(1, _ORDER + 1)
        head = float(np.dot(self._squares[1:] * orders, c ** (orders - 1)))
        tails = [
            share * power * abs(c) ** (power - 1.0) * (1.0 if odd else math.copysign(1.0, c))
            for share, power, odd in self._tails
        ]
        return head + math.fsum(tails)

    @cached_property
    def _squares(self) -> Array:
        """The squared Hermite coefficients a_n^2, (65,)."""
        coefficients = hermite(self._z.tobytes()) @ (self._weights * self._f)
        squares: Array = coefficients**2
        return squares

    @cached_property
    def _tails(self) -> tuple[tuple[float, float, bool], ...]:
        """The sum of the further a_n^2 with even n, and with odd n; the power that stands for them, and the parity."""
        mirrored = self._expectation(self._f * self._f[::-1])
        slopes = self._slopes
        found = []
        for odd, sign in ((False, 1.0), (True, -1.0)):
            total = (self.second_moment + sign * mirrored) / 2.0
            share = total - float(self._squares[int(odd) :: 2].sum())
            if share <= 1e-12 * self.second_moment:
                continue
            power = 2.0 * _ORDER
            if slopes is not None:  # the sum of n a_n^2 is q E[f'^2]; the odd part of f has the even part of f'
                part = (slopes - sign * slopes[::-1]) / 2.0
                orders = np.arange(int(odd), _ORDER + 1, 2)
                rest = self.q * self._expectation(part**2) - float(np.dot(orders, self._squares[int(odd) :: 2]))
                power = max(rest / share, _ORDER + 1.0)
            found.append((share, power, odd))
        return tuple(found)

    def _expectation(self, samples: Array) -> float:
        return float(np.dot(self._weights, samples))


@lru_cache(maxsize=16)
def hermite(nodes: bytes) -> Array:
    """Return the normalized Hermite polynomials of orders 0 ... 64 at some nodes, (65, n)."""
    z = np.frombuffer(nodes)
    table = np.empty((_ORDER + 1, len(z)))
    table[0], table[1] = 1.0, z
    for n in range(1, _ORDER):
        table[n + 1] = (z * table[n] - math.sqrt(n) * table[n - 1]) / math.sqrt(n + 1)
    return table


@lru_cache(maxsize=8192)
def _gaussian(row: Activation, values: tuple[float, ...], q: float) -> Gaussian:
    return Gaussian(row, values, q)


def gaussian(row: Activation, values: tuple[float, ...], q: float, least: float = TINY) -> Gaussian:
    """Return an activation function at a normal input of variance ``q`` >= 0, up to twelve digits of ``q``.

    ``least`` stands for every q below it. Below ``TINY``, ``second_moment_slope`` may be rounding errors alone.
    """
    return _gaussian(row, values, max(float(f"{q:.12g}"), least))


def stability_of(slope: float) -> Stability:
    """Return whether a fixed point is stable, from the slope of the map there."""
    if abs(abs(slope) - 1.0) <= _MARGINAL:
        return "marginal"
    return "stable" if abs(slope) < 1.0 else "unstable"


@dataclass(frozen=True, slots=True)
class Edge:
    """A critical pair of variances: chi_1 is 1 at ``q``, where the variance map has the slope ``slope``.

    ``q`` is None if that is so at every q.
    """

    weight_variance: float
    bias_variance: float
    q: float | None
    slope: float


def edge_at(row: Activation, values: tuple[float, ...], q: float) -> Edge | None:
    """Return the critical pair with the fixed point ``q``; None if the bias variance would be negative or undefined."""
    f = gaussian(row, values, q)
    if not f.squared_derivative:
        return None
    weight = 1.0 / f.squared_derivative
    bias = q - weight * f.second_moment
    if bias < -_MARGINAL * q:
        return None
    bias = 0.0 if bias <= _MARGINAL * q else bias
    return Edge(weight, bias, q, weight * f.second_moment_slope)


def edge_for(row: Activation, values: tuple[float, ...], bias_variance: float) -> Edge | None:
    """Return the critical pair with a bias variance: that of the smallest fixed point; None if there is none."""

    def excess(q: float) -> float:
        f = gaussian(row, values, q)
        if not f.squared_derivative:
            return math.nan
        return (q - f.second_moment / f.squared_derivative - bias_variance) / q

    excesses = [excess(q) for q in GRID.tolist()]
    if all(abs(each) <= _MARGINAL for each in excesses):
        found = edge_at(row, values, 1.0)
        return found and Edge(found.weight_variance, found.bias_variance, None, found.slope)
    at_zero = bias_variance == 0.0 and abs(excess(TINY)) <= _MARGINAL
    q = 0.0 if at_zero else next(roots(excess, excesses), None)
    if q is None:
        return None
    f = gaussian(row, values, q)
    if not f.squared_derivative:
        return None
    weight = 1.0 / f.squared_derivative
    return Edge(weight, bias_variance, q, weight * f.second_moment_slope)


def roots(function: Callable[[float], float], values: Sequence[float]) -> Iterator[float]:
    """Yield the roots of a function in ascending order, given its values on the grid of q; by bisection."""
    for (low, at_low), (high, at_high) in pairwise(zip(GRID.tolist(), values, strict=True)):
        if not at_low * at_high < 0.0 or min(abs(at_low), abs(at_high)) <= 1e-9:
            continue
        left, right = low, high
        for _ in range(60):
            middle = math.sqrt(left * right)
            if function(middle) * at_low > 0.0:
                left = middle
            else:
                right = middle
            if right - left <= 1e-11 * right:
                break
        yield math.sqrt(left * right)
