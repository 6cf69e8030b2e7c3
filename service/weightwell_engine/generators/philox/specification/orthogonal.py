"""The specification of orthogonal matrices in code: plain numpy, slow and readable (docs/orthogonal.md)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]

BLOCK = 64
"""The block size: reflectors in a block, columns in a panel, and terms in a partial sum."""


def haar(gaussian: Matrix, *, gain: float = 1.0) -> Matrix:
    """Return the same bits as ``cpu.orthogonal.haar``."""
    rows, cols = gaussian.shape
    q = multiply_out(gaussian) if rows >= cols else multiply_out(gaussian.T).T
    with np.errstate(over="ignore"):
        return q * gaussian.dtype.type(gain)


def multiply_out(gaussian: Matrix) -> Matrix:
    """Return ``H[0] H[1] ... H[cols - 1] D`` for normals (rows, cols), rows >= cols."""
    q = np.zeros_like(gaussian)
    for start in reversed(range(0, gaussian.shape[1], BLOCK)):
        v, factor, signs = block(gaussian[start:, start : start + BLOCK])
        np.fill_diagonal(q[start:, start : start + BLOCK], signs)
        q[start:] -= product(v, product(factor, product(v.T, q[start:])))
    return q


def block(x: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return V, T and the signs of D for normals (rows, width), rows >= width.

    Column j of V reflects column j of x, from row j on, to a multiple of ``e[j]``. If x already is such a multiple, the
    column of V is zero, and the reflector is the identity.
    """
    v, heads = np.tril(x, -1), np.diagonal(x).astype(np.float64)
    tails = product(np.ones((1, len(v))), v.astype(np.float64) ** 2)[0]
    alone = tails == 0.0
    np.fill_diagonal(v, np.where(alone, 0.0, heads + np.copysign(np.sqrt(heads**2 + tails), heads)))
    halves = np.where(alone, 1.0, (np.diagonal(v).astype(np.float64) ** 2 + tails) * 0.5)
    factor = triangular_factor(v.astype(np.float64), halves)
    return v, factor.astype(x.dtype), np.copysign(1.0, np.where(alone, heads, -heads)).astype(x.dtype)


def triangular_factor(v: Matrix, halves: Matrix) -> Matrix:
    """Return T: the inverse of the upper triangle of ``V' V`` with the diagonal ``halves``, from the last row up."""
    gram = product(v.T, v)
    factor = np.eye(len(gram))
    for i in reversed(range(len(gram))):
        factor[i] -= product(gram[i : i + 1, i + 1 :], factor[i + 1 :])[0]
        factor[i] /= halves[i]
    return factor


def product(a: Matrix, b: Matrix) -> Matrix:
    """Return ``A B``: groups of 64 terms are added, in order, to zero; then the sums of the groups, in order."""
    total = np.zeros((a.shape[0], b.shape[1]), b.dtype)
    for start in range(0, a.shape[1], BLOCK):
        terms = np.zeros_like(total)
        for k in range(start, min(start + BLOCK, a.shape[1])):
            terms += a[:, k, np.newaxis] * b[k]
        total += terms
    return total
