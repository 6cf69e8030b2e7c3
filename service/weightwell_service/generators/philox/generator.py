"""The philox generator as the service has it: plans in, pieces out."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import ParamSpec, TypeVar

from weightwell_service.exceptions import UnsupportedSpec
from weightwell_service.generators import DrawingStopped
from weightwell_service.generators.philox import VERSION, Prepared, prepare, warm_up
from weightwell_service.generators.philox.orthogonal import nbytes
from weightwell_service.laws import Orthogonal, Sparse
from weightwell_service.plan import Piece, Plan, PlannedTensor, naming

P = ParamSpec("P")
T = TypeVar("T")

# A mask numbers the rows of a column in 32 bits.
_MAX_ROWS = 2**32

# Laws that are kept ready while a file is drawn: chunks come in order, so few are in use at once.
_KEPT, _KEPT_MATRICES = 256, 2


class PhiloxGenerator:
    """Draws the same bits everywhere, any piece at any time."""

    name = "philox"
    portable = True
    identity = VERSION

    def __init__(self, threads: int):
        # One chunk for every thread, and one that waits for the first of them to be free.
        self.concurrency = threads + 1
        self._threads = threads
        # Not the threads that draw chunks: those wait for the matrix.
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="matrix")

    def warm_up(self) -> None:
        """Compile the kernels and check their known answers; raise ``GeneratorUnsound`` if they do not come out."""
        warm_up()

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a sparse matrix whose rows a mask cannot number."""
        for tensor in plan.tensors:
            if isinstance(tensor.law, Sparse) and tensor.law.rows > _MAX_ROWS:
                with naming(tensor.name, several=len(plan.tensors) > 1):
                    expected = "at most 2^32 rows where columns are sparse"
                    raise UnsupportedSpec("shape", got=tensor.law.rows, expected=expected)

    def footprint(self, plan: Plan) -> int:
        """Return the bytes that are kept of the largest matrices, as many as are kept at once."""
        return sum(sorted(self._resident(tensor) for tensor in plan.tensors)[-_KEPT_MATRICES:])

    def open(self, plan: Plan) -> "PhiloxDrawing":
        """Start drawing a file."""
        del plan
        return PhiloxDrawing(self._executor)

    def _resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes that are kept to draw a tensor, beside the chunks themselves."""
        match tensor.law:
            case Sparse(rows, cols):
                # Limits and flags of all columns; of a few columns at a time words, their ranks and histograms.
                return 9 * cols + self._threads * (64 * max(rows, 2**16) + 2**24)
            case Orthogonal(rows, cols):
                arithmetic = max(tensor.dtype.itemsize, 4)
                return nbytes(rows, cols, arithmetic, self._threads) + rows * cols * (
                    arithmetic + tensor.dtype.itemsize
                )
        return 0


class PhiloxDrawing:
    """One file in the drawing. Laws are prepared when they are first needed, and a few of them are kept."""

    def __init__(self, executor: Executor):
        self._executor = _Stoppable(executor)
        self._lock = Lock()
        self._elements = lru_cache(_KEPT)(self._prepare)
        self._matrices = lru_cache(_KEPT_MATRICES)(self._prepare)

    def fill(self, piece: Piece, out: memoryview) -> None:
        """Write the elements of a piece into ``out``."""
        with self._lock:
            prepared = (self._matrices if _is_matrix(piece.tensor) else self._elements)(piece.tensor)
        for runs, part in piece.parts(out):
            prepared.fill(runs, part)

    def close(self) -> None:
        """Let go of what was prepared, and stop what is being prepared."""
        self._executor.stop()
        self._elements.cache_clear()
        self._matrices.cache_clear()

    def _prepare(self, tensor: PlannedTensor) -> Prepared:
        return prepare(tensor.law, tensor.dtype, tensor.seed, tensor.name, self._executor)


class _Stoppable(Executor):
    """An executor that can be told to begin nothing more."""

    def __init__(self, executor: Executor):
        self._executor = executor
        self._stopped = False

    def submit(self, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a task that raises ``DrawingStopped`` if it is too late when its turn comes."""

        def unless_stopped() -> T:
            if self._stopped:
                raise DrawingStopped
            return task(*args, **kwargs)

        return self._executor.submit(unless_stopped)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True


def _is_matrix(tensor: PlannedTensor) -> bool:
    """Whether a tensor is drawn with the help of what is kept of the whole matrix."""
    return isinstance(tensor.law, Sparse | Orthogonal)
