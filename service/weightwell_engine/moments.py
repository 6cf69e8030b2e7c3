"""Moments of truncated and of clamped normal distributions, by quadrature."""

from functools import lru_cache
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The part where the density is below exp(-40) of its maximum contributes less than a rounding error.
_NEGLIGIBLE = 2 * 40.0

# The square of a bound, in standard deviations, must be finite.
_FARTHEST = 1e150

# The rest spans at most 18 standard deviations; more nodes change nothing.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def truncated_normal(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of N(mean, std^2) conditioned on ``[low, high]``, std > 0."""
    shift, factor = _standard(_standardized(low, mean, std), _standardized(high, mean, std))
    return min(max(mean + std * shift, low), high), std * factor


def clamped_normal(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of N(mean, std^2) whose values are clamped to ``[low, high]``, std > 0.

    It is a mixture: both bounds, each with the probability beyond it, and between them the truncated normal.
    """
    a, b = _standardized(low, mean, std), _standardized(high, mean, std)
    inner, spread = _standard(a, b)
    below, above = normal_beyond(mean, std, low, high)
    between = max(1.0 - below - above, 0.0)
    # Distances from the mode are small where nearly all values are at one bound.
    mode = min(max(a, 0.0), b)
    places = (a - mode, below), (inner - mode, between), (b - mode, above)
    centre = sum(place * share for place, share in places if share)
    variance = between * spread**2 + sum(share * (place - centre) ** 2 for place, share in places if share)
    return min(max(mean + std * (mode + centre), low), high), std * sqrt(variance)


def normal_beyond(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Return the probabilities that N(mean, std^2), std > 0, is below ``low`` and above ``high``."""
    a, b = _standardized(low, mean, std), _standardized(high, mean, std)
    return erfc(-a / sqrt(2.0)) / 2, erfc(b / sqrt(2.0)) / 2


def _standardized(bound: float, mean: float, std: float) -> float:
    """Return a bound in standard deviations from the mean."""
    return min(max((bound - mean) / std, -_FARTHEST), _FARTHEST)


@lru_cache(4096)
def _standard(low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of N(0, 1) conditioned on ``[low, high]``, by Gauss-Legendre quadrature.

    The closed forms lose all digits far from zero and in narrow intervals (Burkardt 2014, The Truncated Normal
    Distribution). Quadrature of the density, relative to its greatest value, loses none.
    """
    if low == -high:
        return 0.0, _about(0.0, low, high)[1]
    mode = min(max(low, 0.0), high)
    shift, std = _about(mode, low - mode, high - mode)
    return mode + shift, std


def truncated_normal_shape(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Return skewness and kurtosis (3 for a normal law) of N(mean, std^2) conditioned on ``[low, high]``, std > 0."""
    a, b = _standardized(low, mean, std), _standardized(high, mean, std)
    mode = min(max(a, 0.0), b)
    distances, density = _density(mode, a - mode, b - mode)
    centred = distances - density @ distances
    squares = centred * centred
    variance = float(density @ squares)
    if variance == 0.0:
        return 0.0, 1.0
    skewness = 0.0 if a == -b else float(density @ (squares * centred)) / variance**1.5
    return skewness, float(density @ (squares * squares)) / variance**2


def _about(mode: float, low: float, high: float) -> tuple[float, float]:
    """Return mean and standard deviation of the distance from the mode, which is in ``[low, high]``."""
    distances, density = _density(mode, low, high)
    mean = float(density @ distances)
    return mean, sqrt(float(density @ (distances - mean) ** 2))


def _density(mode: float, low: float, high: float) -> tuple[Array, Array]:
    """Return nodes of the distance from the mode (96), and their weights (96), which sum to 1."""
    reach = _NEGLIGIBLE / (abs(mode) + sqrt(mode * mode + _NEGLIGIBLE))
    start, stop = max(low, -reach), min(high, reach)
    distances = start + (stop - start) / 2 * (1 + _NODES)
    density = _WEIGHTS * np.exp(-distances * (distances / 2 + mode))
    density /= density.sum()
    return distances, density
