"""Drawings: compiled kernels write the pieces of one file into memory."""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor

from weightwell_engine.generators import DrawingStopped, places
from weightwell_engine.generators.philox.cpu import orthogonal, orthogonal_stack, sparse
from weightwell_engine.generators.philox.cpu.checked import Prepared, prepare
from weightwell_engine.generators.philox.generator import Laws
from weightwell_engine.laws import Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.plan import Piece, PlannedTensor


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


class CpuDrawing:
    """The state of drawing one file."""

    def __init__(self, threads: int):
        self._threads = threads
        self._laws = Laws(self._prepare)
        self._executor: Executor | None = None
        self._stopped = False

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, one piece after the other, into ``out``."""
        try:
            for piece, memory in places(pieces, out):
                prepared = self._laws.of(piece.tensor)
                for part, place in piece.parts(memory):
                    prepared.fill(part, place)
        except (CancelledError, RuntimeError):
            if self._stopped:
                raise DrawingStopped from None
            raise

    def close(self) -> None:
        """Release the prepared laws, and start no more blocks of a matrix."""
        self._stopped = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._laws.clear()

    def _prepare(self, tensor: PlannedTensor) -> Prepared:
        executor = self._workers() if isinstance(tensor.law, Orthogonal | OrthogonalStack) else None
        return prepare(tensor.law, tensor.dtype, tensor.seed, tensor.name, executor)

    def _workers(self) -> Executor:
        """Return the threads that compute the matrices of this file. They are not the threads that draw chunks."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="matrix")
        if self._stopped:
            self._executor.shutdown(wait=False)
        return self._executor
