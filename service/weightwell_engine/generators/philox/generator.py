"""The common base class of the philox generators in ``cpu.generator`` and ``cuda.generator``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Generic, TypeVar

from weightwell_engine.generators import Drawing
from weightwell_engine.generators.philox.specification.draws import require_numbered_rows
from weightwell_engine.generators.philox.specification.keys import VERSION
from weightwell_engine.laws import Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.plan import Layer, Piece, Plan, PlannedTensor, errors_of_layer

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

# Prepared laws that are cached for a file: chunks come in order, so few are in use at once.
_KEPT, _KEPT_MATRICES = 256, 2

# Approximate nanoseconds on the CPUs of docs/performance.md: for a tensor, for a call of a kernel, for an element of up
# to 4 bytes, and for one of 8 bytes.
_TENSOR, _CALL, _ELEMENT, _DOUBLE = 20_000, 9_000, 4, 12

# Approximate nanoseconds to skip a part that has no elements in a piece.
_SKIPPED = 100

# The most bytes for each column of a sparse matrix: its limit, and whether that is known.
_COLUMN = 9


class PhiloxGenerator(ABC):
    """Draws the same bits on every machine. Pieces can be drawn in any order."""

    name = "philox"
    portable = True
    identity = VERSION

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a sparse matrix with too many rows for the mask."""
        for tensor in plan.tensors:
            for layer in tensor.layers:
                if isinstance(layer.law, Sparse):
                    with errors_of_layer(tensor, layer, several=len(plan.tensors) > 1):
                        require_numbered_rows(layer.law)

    def instant(self, plan: Plan) -> bool:
        """Return False: drawing may wait for a device or for the compiler."""
        del plan
        return False

    def footprint(self, plan: Plan) -> int:
        """Return the bytes of the largest matrices, for as many as are cached at once."""
        return sum(sorted(self._all(self.resident, tensor) for tensor in plan.matrices)[-_KEPT_MATRICES:])

    def kept(self, plan: Plan) -> int:
        """Return the bytes of the footprint that stay allocated between chunks."""
        kept = sum(sorted(self._all(self._kept, tensor) for tensor in plan.matrices)[-_KEPT_MATRICES:])
        return min(kept, self.footprint(plan))

    @staticmethod
    def _all(nbytes: Callable[[PlannedTensor], int], tensor: PlannedTensor) -> int:
        """Return the bytes of a tensor and of all its parts."""
        return sum(map(nbytes, tensor.layers)) if tensor.overlays else nbytes(tensor)

    def cost(self, piece: Piece) -> int:
        """Estimate the time to draw a piece in one CPU thread, in nanoseconds."""
        if not piece.tensor.overlays:
            return self._cost(piece)
        base, layers = piece.layers()
        parts = sum(self._cost(layer.piece) + self._placing(layer) for layer in layers)
        return (self._cost(piece) if base else 0) + len(piece.tensor.overlays) * _SKIPPED + parts

    @staticmethod
    def _placing(layer: Layer) -> int:
        """Estimate the time to copy the elements of a part to their places in the tensor, in nanoseconds."""
        calls, elements = layer.box.work(layer.piece.start, layer.piece.stop)
        return calls * _CALL + elements

    @staticmethod
    def _cost(piece: Piece) -> int:
        calls, elements = piece.tensor.region.work(piece.start, piece.stop)
        each = _ELEMENT if piece.tensor.dtype.itemsize <= 4 else _DOUBLE
        return _TENSOR + calls * _CALL + elements * piece.tensor.dtype.packed * each

    def before(self, piece: Piece) -> int:
        """Return 0: no number needs the numbers before it."""
        del piece
        return 0

    def whole(self, piece: Piece) -> int:
        """Estimate the time to draw whole matrices, in nanoseconds; 0 for independent elements."""
        if not piece.tensor.overlays:
            return self._whole(piece)
        base, layers = piece.layers()
        return (self._whole(piece) if base else 0) + sum(self._whole(layer.piece) for layer in layers)

    @staticmethod
    def _whole(piece: Piece) -> int:
        match piece.tensor.law:
            case Orthogonal(rows, cols):
                return rows * cols * min(rows, cols) // 10
            case OrthogonalStack() as law:
                return law.count * law.rows * law.cols * min(law.rows, law.cols) // 10
            case Sparse(rows, cols):
                return rows * cols
        return 0

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Do nothing: separate threads draw a matrix, together with its first piece."""
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
        """Return the bytes kept for drawing a tensor, not counting the chunks."""


class Laws(Generic[T]):
    """The prepared laws of one file. Each is prepared at its first use, one at a time. The last ones are cached."""

    def __init__(self, prepare: Callable[[PlannedTensor], T]):
        self._prepare = prepare
        self._lock = Lock()
        # The key is the order of the tensor in its spec, and its layer; the least recently used law comes first.
        self._elements: dict[tuple[int, int], T] = {}
        # The matrices of a tensor and its parts, by layer, stay together: a chunk may have elements of all of them.
        self._matrices: dict[int, dict[int, T]] = {}

    def of(self, tensor: PlannedTensor) -> T:
        """Return the law of a tensor, or of a part of one, prepared."""
        with self._lock:
            if tensor.is_matrix:
                matrices = _latest(self._matrices, tensor.order, dict, _KEPT_MATRICES)
                if tensor.layer not in matrices:
                    matrices[tensor.layer] = self._prepare(tensor)
                return matrices[tensor.layer]
            return _latest(self._elements, (tensor.order, tensor.layer), lambda: self._prepare(tensor), _KEPT)

    def clear(self) -> None:
        """Release all laws. A thread that draws with a law keeps it until it is done."""
        # Without the lock, which may be held for seconds. An active call of ``of`` keeps the old dict.
        self._elements, self._matrices = {}, {}


def _latest(kept: dict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    """Return the cached value of a key, or make it; remove the least recently used value if there are too many."""
    value = kept.pop(key) if key in kept else make()
    kept[key] = value  # after all others
    if len(kept) > most:
        del kept[next(iter(kept))]
    return value
