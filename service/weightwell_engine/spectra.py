"""Spectra: the limits of the singular values and eigenvalues of large matrices, from random matrix theory."""

from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Nodes of the table of the law's distribution function.
_NODES = 4096


def marchenko_pastur(rows: int, cols: int, mean: float, std: float) -> Array:
    """Return the singular values (min(rows, cols)), descending, that are expected of a matrix of independent elements.

    They are the quantiles of the law of Marchenko and Pastur (1967): with n the larger and m the smaller of the two
    sizes and q = m / n, the singular values over ``std * sqrt(n)`` have the density
    sqrt((b^2 - t^2) (t^2 - a^2)) / (pi q t) in [a, b] = [1 - sqrt(q), 1 + sqrt(q)]. A mean other than zero adds one
    singular value outside of them, if it is large enough (Benaych-Georges & Nadakuditi 2012, The singular values and
    vectors of low rank perturbations of large rectangular random matrices, section 3.1).
    """
    m, n = sorted((rows, cols))
    q = m / n
    # With t^2 = 1 + q + 2 sqrt(q) cos(u), the density of u has no singularity but that of q = 1 at its end.
    angles = np.linspace(0.0, pi, _NODES)
    squares = np.maximum(1 + q - 2 * sqrt(q) * np.cos(angles), 1e-300)
    density = np.where(squares > 1e-290, 2 * np.sin(angles) ** 2 / (pi * squares), 2 / pi)
    steps = (density[1:] + density[:-1]) / 2
    table = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    ranks = (np.arange(m, 0, -1) - 0.5) / m
    found = std * sqrt(n) * np.interp(ranks, table, np.sqrt(squares))
    if std > 0:
        strength = abs(mean) * sqrt(m) / std  # the singular value of the mean, over std * sqrt(n)
        if strength > q**0.25:
            found[0] = std * sqrt(n) * sqrt((1 + strength**2) * (q + strength**2)) / strength
    else:
        found[0] = abs(mean) * sqrt(m * n)
    return found
