"""Stacks of orthogonal matrices: where an element of the tensor is in the matrices (docs/orthogonal.md)."""

import numpy as np

from weightwell_engine.generators.philox.specification.words import Indices
from weightwell_engine.laws import OrthogonalStack


def places(law: OrthogonalStack, at: Indices) -> tuple[Indices, Indices]:
    """Return where the elements with flat indices ``at`` are: among those of the matrices, and in their kernels.

    The first are flat indices of an array (count, rows, cols). An element that is not at ``law.centre`` is zero.
    """
    return _divided(_in_stack(law, at), np.uint64(law.taps))


def is_batch_first(law: OrthogonalStack) -> bool:
    """Whether the matrices follow each other in the tensor, one after the other, in their order.

    Then the last element of the first of as many equal parts as there are matrices is the last of the first matrix.
    Otherwise an axis of the batch is inside an axis of the matrices, and it is not.
    """
    last = law.rows * law.cols * law.taps - 1
    return int(_in_stack(law, np.array([last], np.uint64))[0]) == last


def _in_stack(law: OrthogonalStack, at: Indices) -> Indices:
    """Return the indices in the stack of elements of the tensor."""
    found = np.zeros_like(at)
    for size, stride in zip(reversed(law.sizes), reversed(law.strides), strict=True):
        at, along = _divided(at, np.uint64(size))
        found += along * np.uint64(stride)
    return found


def _divided(at: Indices, size: np.uint64) -> tuple[Indices, Indices]:
    """Return quotients and remainders; a product takes a fraction of the time of another division."""
    quotient = at // size
    return quotient, at - quotient * size
