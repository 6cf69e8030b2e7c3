"""Drawings: kernels, or at first the reference, write the pieces of one file into memory. Kernels load when needed."""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np

from weightwell_engine.forks import loading
from weightwell_engine.generators import DrawingStopped, places
from weightwell_engine.generators.philox.cpu.early import Prepared, prepare
from weightwell_engine.generators.philox.generator import Laws
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns
from weightwell_engine.laws import Orthogonal, OrthogonalStack
from weightwell_engine.plan import Layer, Piece, PlannedTensor
from weightwell_engine.regions import Part, Runs, indices

# Elements of a part that are drawn at once and then copied, where they are not side by side in their tensor.
_BLOCK = 1 << 16


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
                if piece.tensor.overlays:
                    self._fill_layers(piece, memory)
                else:
                    self._fill(piece, memory)
        except (CancelledError, RuntimeError):
            if self._stopped:
                raise DrawingStopped from None
            raise

    def _fill(self, piece: Piece, out: memoryview) -> None:
        prepared = self._laws.of(piece.tensor)
        for part, place in piece.parts(out):
            prepared.fill(part, place)

    def _fill_layers(self, piece: Piece, out: memoryview) -> None:
        """Write a piece of a tensor with parts: its own elements, and over them those of its parts."""
        base, layers = piece.layers()
        if base:
            self._fill(piece, out)
        for layer in layers:
            self._fill_over(layer, piece.start, out)

    def _fill_over(self, layer: Layer, start: int, out: memoryview) -> None:
        """Write a part over elements of its tensor, of which those from ``start`` on are in ``out``."""
        size = layer.piece.tensor.dtype.itemsize
        elements = np.frombuffer(out, UNSIGNED[size])
        scratch: Patterns | None = None  # one for all blocks: new memory takes as long as drawing to it
        for first, at in layer.box.blocks(layer.piece.start, layer.piece.stop, _BLOCK):
            drawn = replace(layer.piece, start=first, stop=first + at.size)
            if isinstance(at, Runs) and at.count == 1:
                begin = (at.first - start) * size
                self._fill(drawn, out[begin : begin + drawn.nbytes])
            else:
                scratch = (
                    np.empty(min(_BLOCK, layer.piece.stop - layer.piece.start), elements.dtype)
                    if scratch is None
                    else scratch
                )
                self._fill(drawn, scratch[: at.size].data.cast("B"))
                _place(scratch[: at.size], at, elements, start)

    def close(self) -> None:
        """Release the prepared laws, and start no more blocks of a matrix."""
        self._stopped = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._laws.clear()

    def _prepare(self, tensor: PlannedTensor) -> Prepared:
        executor = self._workers() if isinstance(tensor.law, Orthogonal | OrthogonalStack) else None
        law = tensor.law, tensor.dtype, tensor.seed, tensor.stream_name

        return prepare(*law, lambda: _kernels().prepare(*law, executor))

    def _workers(self) -> Executor:
        """Return the threads that compute the matrices of this file. They are not the threads that draw chunks."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="matrix")
        if self._stopped:
            self._executor.shutdown(wait=False)
        return self._executor


@cache  # an import statement and its lock take as long as drawing ten elements
def _kernels() -> ModuleType:
    """Return the module that prepares the kernels. Its import takes a moment, so it comes with the first use."""
    with loading:
        from weightwell_engine.generators.philox.cpu import checked
    return checked


def _place(drawn: Patterns, at: Part, elements: Patterns, start: int) -> None:
    """Write what was drawn at its flat indices, of which ``start`` is the first of ``elements``."""
    if isinstance(at, Runs):
        strides = at.stride * drawn.itemsize, drawn.itemsize
        rows = np.lib.stride_tricks.as_strided(elements[at.first - start :], (at.count, at.length), strides)
        rows[...] = drawn.reshape(rows.shape)
    else:
        elements[indices(at) - start] = drawn
