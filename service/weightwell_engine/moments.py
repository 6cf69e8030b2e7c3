"""Moments: mean and standard deviation of the elements of a tensor, as its law says, before they are rounded.

They are those of single elements: of the tensor's histogram, whatever its elements have to do with one another.
"""

from functools import lru_cache
from math import prod, sqrt

import numpy as np

from weightwell_engine.laws import Constant, Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform

# Where the density is below exp(-40) of its greatest value, less than a rounding error of the moments is lost.
_NEGLIGIBLE = 2 * 40.0

_FARTHEST = 1e150

# Over at most 18 standard deviations, which is all that is not negligible, more nodes change nothing.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def mean_std(law: Law, size: int) -> tuple[float, float]:
    """Return the mean of an element, and its standard deviation.

    For laws in which elements differ, they are those of an element that is picked at random. Those of an orthogonal
    matrix follow from its symmetry: the squares of a row, or of a column, sum to ``gain^2``.
    """
    match law:
        case Constant(value):
            return value, 0.0
        case Uniform(low, high):
            return low / 2 + high / 2, (high / 2 - low / 2) / sqrt(3.0)
        case Normal(mean, std):
            return mean, std
        case TruncatedNormal(mean, std, low, high):
            shift, factor = _truncated(_standardized(low, mean, std), _standardized(high, mean, std))
            return min(max(mean + std * shift, low), high), std * factor
        case Lattice(value, _, _, counts):
            share = prod(counts) / max(size, 1)
            return value * share, abs(value) * sqrt(share * (1 - share))
        case Sparse(rows, _, zeros, std):
            return 0.0, std * sqrt(1 - zeros / max(rows, 1))
        case Orthogonal(rows, cols, gain, taps):
            return 0.0, abs(gain) / sqrt(max(rows, cols, 1) * taps)


def _standardized(bound: float, mean: float, std: float) -> float:
    """Return a bound in standard deviations from the mean, kept to where its square is a number."""
    return min(max((bound - mean) / std, -_FARTHEST), _FARTHEST)


@lru_cache(4096)
def _truncated(low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of N(0, 1) conditioned on ``[low, high]``, by Gauss-Legendre quadrature.

    The closed forms lose all digits far from zero and in narrow intervals (Burkardt 2014, The Truncated Normal
    Distribution); the density relative to its greatest value, where it is not negligible, loses none.
    """
    if low == -high:
        return 0.0, _about(0.0, low, high)[1]
    mode = min(max(low, 0.0), high)
    shift, std = _about(mode, low - mode, high - mode)
    return mode + shift, std


def _about(mode: float, low: float, high: float) -> tuple[float, float]:
    """Return the moments of the distance from the mode, which is in ``[low, high]``."""
    reach = _NEGLIGIBLE / (abs(mode) + sqrt(mode * mode + _NEGLIGIBLE))
    start, stop = max(low, -reach), min(high, reach)
    distances = start + (stop - start) / 2 * (1 + _NODES)
    density = _WEIGHTS * np.exp(-distances * (distances / 2 + mode))
    density /= density.sum()
    mean = float(density @ distances)
    return mean, sqrt(float(density @ (distances - mean) ** 2))
