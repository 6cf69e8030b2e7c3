"""Stacks of orthogonal matrices: the map from elements of the tensor to the matrices (docs/orthogonal.md)."""

import numpy as np

from weightwell_engine.generators.philox.specification.words import Indices
from weightwell_engine.laws import OrthogonalStack


def places(law: OrthogonalStack, at: Indices) -> tuple[Indices, Indices]:
    """Map flat indices ``at`` of the tensor to flat indices in the matrices and positions in the convolution kernel.

    The first result has flat indices of an array (count, rows, cols). Elements with another position than
    ``law.centre`` are zero.
    """
    return _divided(_in_stack(law, at), np.uint64(law.taps))


def is_batch_first(law: OrthogonalStack) -> bool:
    """Whether the matrices are contiguous in the tensor, one after the other, in their order.

    Divide the tensor into as many equal parts as there are matrices. The matrices are contiguous if the last element of
    the first part is the last element of the first matrix. Otherwise a batch axis is inside an axis of the matrices.
    """
    last = law.rows * law.cols * law.taps - 1
    return int(_in_stack(law, np.array([last], np.uint64))[0]) == last


def _in_stack(law: OrthogonalStack, at: Indices) -> Indices:
    """Map flat indices in the tensor to flat indices in the stack."""
    found = np.zeros_like(at)
    for size, stride in zip(reversed(law.sizes), reversed(law.strides), strict=True):
        at, along = _divided(at, np.uint64(size))
        found += along * np.uint64(stride)
    return found


def _divided(at: Indices, size: np.uint64) -> tuple[Indices, Indices]:
    """Return quotients and remainders. The remainder uses a product, which is faster than another division."""
    quotient = at // size
    return quotient, at - quotient * size
