"""Windows: the interval of probabilities for a truncated normal, computed exactly before any draw.

The probabilities of the bounds are correctly rounded real numbers. They are computed with 60 decimal digits, and not
with this machine's libm. So any other computation with enough digits gives the same numbers.
"""

from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import lru_cache
from typing import NamedTuple

_CONTEXT = Context(prec=60, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")

# The limit between the series (centre) and the continued fraction (tails), and the number of levels for 50 digits.
_SPLIT = 4
_LEVELS = 300

# A window of fewer 2^-32 than this would be drawn with too few different values.
_NARROW = 1 << 24
# The end of AS 241's centre: 1/2 - 0.425.
_TAIL = Decimal("0.075")
# A window this many standard deviations away is too narrow, relative to its distance, for float64.
_REMOTE = 1 << 26


@dataclass(frozen=True, slots=True)
class Wide:
    """The words ``origin + (w * width >> bits)``, in units of 2^-bits of probability."""

    origin: int
    width: int


@dataclass(frozen=True, slots=True)
class Narrow:
    """A window of little probability, drawn in float64 from a ``u`` in (0, 1).

    If ``side`` is 0, the probability below the draw is ``1/2 + start + span u``. Otherwise ``side`` is the sign of the
    draw, and ``(start + span u) 2^-exponent`` is the probability of the tail beyond it.
    """

    side: int
    start: float
    span: float
    exponent: int


@dataclass(frozen=True, slots=True)
class Remote:
    """A window so far from the mean that every draw equals the nearer bound."""


Window = Wide | Narrow | Remote


class Probability(NamedTuple):
    """The probabilities of a standard normal below and above a bound, each to 50 digits or more."""

    below: Decimal
    above: Decimal


@lru_cache(maxsize=4096)
def window(mean: float, std: float, low: float, high: float, bits: int = 32) -> Window:
    """Return the window of ``[low, high]`` under N(mean, std^2), std > 0, for words of 32 or 64 bits."""
    with localcontext(_CONTEXT):
        bounds = [(Decimal(bound) - Decimal(mean)) / Decimal(std) for bound in (low, high)]
        left, right = (probability(bound) for bound in bounds)
        if _width(left, right, 32).width >= _NARROW:
            return _width(left, right, bits)
        if bounds[0] >= _REMOTE or bounds[1] <= -_REMOTE:
            return Remote()
        if left.above < _TAIL:
            return _tail(+1, near=left.above, far=right.above)
        if right.below < _TAIL:
            return _tail(-1, near=right.below, far=left.below)
        return Narrow(0, float(left.below - Decimal("0.5")), float(right.below - left.below), 0)


def _width(left: Probability, right: Probability, bits: int) -> Wide:
    origin, end = (int(side.below * (1 << bits) + Decimal("0.5")) for side in (left, right))
    return Wide(origin, end - origin)


def _tail(side: int, near: Decimal, far: Decimal) -> Narrow:
    """Scale a window of a tail by a power of two, such that its larger probability is in [1/2, 1)."""
    exponent = _binary_exponent(near)
    scale = Decimal(2) ** exponent
    return Narrow(side, float(far * scale), float((near - far) * scale), exponent)


def _binary_exponent(probability: Decimal) -> int:
    """Return the ``e`` with ``1/2 <= probability * 2^e < 1``."""
    exponent = -int(probability.ln() / Decimal(2).ln())
    while probability * Decimal(2) ** exponent < Decimal("0.5"):
        exponent += 1
    while probability * Decimal(2) ** exponent >= 1:
        exponent -= 1
    return exponent


def probability(bound: Decimal) -> Probability:
    """Return the probabilities below and above a bound, which may be infinite."""
    with localcontext(_CONTEXT):
        tail = _tail_probability(abs(bound))
        return Probability(1 - tail, tail) if bound > 0 else Probability(tail, 1 - tail)


def _tail_probability(x: Decimal) -> Decimal:
    """Return ``Phi(-x)`` for ``x >= 0``: Abramowitz and Stegun 26.2.11 for small x, and 26.2.14 for large."""
    if x.is_infinite():
        return Decimal(0)
    density = (-x * x / 2).exp() / (2 * _PI).sqrt()
    if x < _SPLIT:
        total, term, odd = Decimal(0), x, 1
        while total + term != total:
            total, odd = total + term, odd + 2
            term *= x * x / odd
        return Decimal("0.5") - density * total
    fraction = x
    for level in range(_LEVELS, 0, -1):
        fraction = x + level / fraction
    return density / fraction
