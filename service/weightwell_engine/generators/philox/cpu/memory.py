"""The memory of matrices that are drawn whole."""

from weightwell_engine.generators.philox.cpu import orthogonal, orthogonal_stack, sparse
from weightwell_engine.laws import Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.plan import PlannedTensor


def resident(tensor: PlannedTensor, threads: int) -> int:
    """Return the bytes that a number of threads keep for drawing a tensor, not counting the chunks."""
    match tensor.law:
        case Sparse() as law:
            return sparse.nbytes(law, threads)
        case Orthogonal(rows, cols):
            arithmetic = max(tensor.dtype.itemsize, 4)
            kept = rows * cols * (arithmetic + tensor.dtype.itemsize)
            return orthogonal.nbytes(rows, cols, arithmetic, threads) + kept
        case OrthogonalStack() as law:
            return orthogonal_stack.nbytes(law, tensor.dtype, threads)
    return 0
