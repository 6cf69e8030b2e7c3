"""What the philox generators of all devices share: ``cpu.generator`` and ``cuda.generator`` derive from it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Generic, TypeVar

from weightwell_engine.generators import Drawing
from weightwell_engine.generators.philox.specification.draws import require_numbered_rows
from weightwell_engine.generators.philox.specification.keys import VERSION
from weightwell_engine.laws import Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.plan import Piece, Plan, PlannedTensor, errors_of_tensor

T = TypeVar("T")

# Laws that are kept ready while a file is drawn: chunks come in order, so few are in use at once.
_KEPT, _KEPT_MATRICES = 256, 2

# Nanoseconds, about, on the CPUs of docs/performance.md: for a tensor, for a call of a kernel, and for an element of up
# to 4 bytes and of 8.
_TENSOR, _CALL, _ELEMENT, _DOUBLE = 20_000, 9_000, 4, 12

# Bytes that are kept of a sparse matrix for each column, at the most: its limit, and whether that is known.
_COLUMN = 9


class PhiloxGenerator(ABC):
    """Draws the same bits everywhere, any piece at any time."""

    name = "philox"
    portable = True
    identity = VERSION

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a sparse matrix whose rows a mask cannot number."""
        for tensor in plan.tensors:
            if isinstance(tensor.law, Sparse):
                with errors_of_tensor(tensor.name, several=len(plan.tensors) > 1):
                    require_numbered_rows(tensor.law)

    def instant(self, plan: Plan) -> bool:
        """Return False: drawing waits for a device, or for kernels to be compiled."""
        del plan
        return False

    def footprint(self, plan: Plan) -> int:
        """Return the bytes that are kept of the largest matrices, as many as are kept at once."""
        return sum(sorted(self.resident(tensor) for tensor in plan.tensors)[-_KEPT_MATRICES:])

    def kept(self, plan: Plan) -> int:
        """Return the bytes of the footprint that are kept between chunks."""
        kept = sum(sorted(map(self._kept, plan.tensors))[-_KEPT_MATRICES:])
        return min(kept, self.footprint(plan))

    def cost(self, piece: Piece) -> int:
        """Return about how many nanoseconds one thread of a CPU takes to draw a piece."""
        calls, elements = piece.tensor.region.work(piece.start, piece.stop)
        return _TENSOR + calls * _CALL + elements * (_ELEMENT if piece.tensor.dtype.itemsize <= 4 else _DOUBLE)

    def before(self, piece: Piece) -> int:
        """Return the nanoseconds of a whole matrix, about; 0 for elements, each of which is drawn by itself."""
        match piece.tensor.law:
            case Orthogonal(rows, cols):
                return rows * cols * min(rows, cols) // 10
            case OrthogonalStack() as law:
                return law.count * law.rows * law.cols * min(law.rows, law.cols) // 10
            case Sparse(rows, cols):
                return rows * cols
        return 0

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Do nothing: a matrix is drawn by threads of its own, together with the first of its pieces."""
        del drawing, piece
        return iter(())

    @staticmethod
    def _kept(tensor: PlannedTensor) -> int:
        match tensor.law:
            case Orthogonal(rows, cols):
                return rows * cols * tensor.dtype.itemsize
            case OrthogonalStack() as law:
                return law.count * law.rows * law.cols * tensor.dtype.itemsize
            case Sparse(cols=cols):
                return _COLUMN * cols
        return 0

    @abstractmethod
    def resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes that are kept to draw a tensor, beside the chunks themselves."""


class Laws(Generic[T]):
    """The laws of one file. They are prepared when they are first needed, one at a time, and the last ones are kept."""

    def __init__(self, prepare: Callable[[PlannedTensor], T]):
        self._prepare = prepare
        self._lock = Lock()
        # By the order of the tensor in its spec; the least recently used comes first.
        self._elements: dict[int, T] = {}
        self._matrices: dict[int, T] = {}

    def of(self, tensor: PlannedTensor) -> T:
        """Return the law of a tensor, prepared."""
        kept, most = (self._matrices, _KEPT_MATRICES) if is_matrix(tensor) else (self._elements, _KEPT)
        with self._lock:
            law = kept.pop(tensor.order) if tensor.order in kept else self._prepare(tensor)
            kept[tensor.order] = law  # after all others
            if len(kept) > most:
                del kept[next(iter(kept))]
            return law

    def clear(self) -> None:
        """Let go of all of them; who draws with one keeps it until it is done."""
        # Without the lock, which may be held for seconds. A call of ``of`` under way keeps the dict that it began with.
        self._elements, self._matrices = {}, {}


def is_matrix(tensor: PlannedTensor) -> bool:
    """Whether a tensor is drawn with the help of what is kept of the whole matrix."""
    return isinstance(tensor.law, Sparse | Orthogonal | OrthogonalStack)
