"""The philox generator on a GPU: draws pieces of a plan on the GPU and copies them to host memory.

A chunk is drawn in a few launches, even if it has parts of many tensors, and copied to pinned memory. Each drawing
thread has its own CUDA stream, so the GPU draws one chunk and copies another, while the socket sends a third.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.generators import Drawing
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox import cuda
from weightwell_engine.generators.philox.cpu.early import positional
from weightwell_engine.generators.philox.cuda.overlays import Over, write_over
from weightwell_engine.generators.philox.generator import Laws, PhiloxGenerator
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS, NAME, SEED
from weightwell_engine.laws import Law, Normal, TruncatedNormal, Uniform, Values
from weightwell_engine.plan import Piece, Plan, PlannedTensor
from weightwell_engine.regions import Runs

COMMON: tuple[Law, ...] = Uniform(-1.0, 1.0), Normal(0.0, 1.0), TruncatedNormal(0.0, 1.0, -2.0, 2.0)

# Kernels write vectors of this many bytes, to addresses that are multiples of it.
_VECTOR = 16

# Runs that need both ways of drawing: some elements one by one, and the others in groups of four.
_UNEVEN = Runs(first=3, length=1026, stride=0, count=1)


class CudaPhiloxGenerator(PhiloxGenerator):
    """Draws on a GPU, with the same bits as on the CPU."""

    # One chunk is drawn, one is copied, and one is ready for the socket.
    concurrency = 3

    def __init__(self, gpu: Gpu):
        self.chunk = gpu.chunk
        self._gpu = gpu

    def warm_up(self) -> None:
        """Compile the kernels and check their known answers on the GPU; raise ``GeneratorUnsound`` for a wrong one."""
        for answer in KNOWN_ANSWERS:
            answer.require(self._drawn)
        with self._gpu.queue():
            _draw(self._gpu, list(self._commonplaces()), self._gpu.allocate(8 * (_UNEVEN.first + _UNEVEN.size)))

    def allocate(self, nbytes: int) -> memoryview:
        """Return pinned host memory, to which the GPU copies without the CPU."""
        return self._gpu.allocate(nbytes)

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file."""
        del plan
        return CudaDrawing(self._gpu)

    def resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes of GPU memory kept for drawing a tensor, not counting the chunks."""
        return cuda.nbytes(tensor.law, tensor.dtype)

    def _commonplaces(self) -> Iterator[cuda.Part]:
        """Yield laws that compile the kernels of nearly all requests. Known answers may not cover all of them."""
        for law, dtype in product(COMMON, FLOATS.values()):
            prepared = cuda.prepare(law, dtype, SEED, NAME, self._gpu.place)
            yield prepared, _UNEVEN, _UNEVEN.first * dtype.itemsize

    def _drawn(self, law: Law, dtype: str, runs: Runs) -> memoryview:
        prepared = cuda.prepare(law, DTYPES[dtype], SEED, NAME, self._gpu.place)
        out = self._gpu.allocate(runs.size * DTYPES[dtype].itemsize)
        with self._gpu.queue():
            _draw(self._gpu, [(prepared, runs, 0)], out)
        return out


class CudaDrawing:
    """The state of drawing one file."""

    def __init__(self, gpu: Gpu):
        self._gpu = gpu
        self._laws = Laws(self._prepare)

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, one piece after the other, into ``out``, which is host memory."""
        with self._gpu.queue():
            memory = torch.empty(len(out), dtype=torch.uint8, device=self._gpu.place)
            self._draw(pieces, memory)
            self._gpu.fetch(memory, out)

    def fill_on_device(self, piece: Piece, out: torch.Tensor) -> None:
        """Write the elements of a piece into ``out`` (piece.nbytes, uint8), which is on the GPU, and wait for them."""
        wanted = torch.uint8, (piece.nbytes,), self._gpu.place
        if (out.dtype, tuple(out.shape), out.device) != wanted or not out.is_contiguous():
            raise ValueError(
                f"out must be a contiguous tensor of {piece.nbytes} uint8 on {self._gpu.place}, got "
                f"{tuple(out.shape)} {out.dtype} on {out.device}"
            )
        if not piece.nbytes:
            return
        with self._gpu.queue(after_caller=True):
            if out.data_ptr() % _VECTOR or out.storage_offset() % piece.tensor.dtype.itemsize:
                memory = torch.empty_like(out)
                self._draw((piece,), memory)
                out.copy_(memory)
            else:
                self._draw((piece,), out)
            self._gpu.finish()

    def close(self) -> None:
        """Release the prepared laws."""
        self._laws.clear()

    def _draw(self, pieces: Sequence[Piece], memory: torch.Tensor) -> None:
        """Enqueue what draws pieces into ``memory`` (n, uint8), which they fill."""
        over: list[Over] = []
        parts = list(self._parts(pieces, over))
        cuda.fill(parts, memory)
        self._write_given(pieces, memory)
        if over:
            write_over(over, memory, self._drawn)

    def _prepare(self, tensor: PlannedTensor) -> cuda.Prepared:
        return cuda.prepare(tensor.law, tensor.dtype, tensor.seed, tensor.stream_name, self._gpu.place)

    def _parts(self, pieces: Sequence[Piece], over: list[Over]) -> Iterator[cuda.Part]:
        """Yield the parts of pieces: a law, the indices of its elements, and the number of bytes before them.

        Parts of tensors, which are written over that, are added to ``over``.
        """
        offset = 0
        for piece in pieces:
            base = True
            if piece.tensor.overlays:
                base, layers = piece.layers()
                over += (Over(layer, piece.start, offset) for layer in layers)
            if base:
                yield from self._drawn(piece, offset)
            offset += piece.nbytes

    @staticmethod
    def _write_given(pieces: Sequence[Piece], memory: torch.Tensor) -> None:
        """Write given numbers, which are found on the host, into ``memory``, which the pieces fill."""
        offset = 0
        for piece in pieces:
            if isinstance(piece.tensor.law, Values):
                host = bytearray(piece.nbytes)
                table = positional(piece.tensor.law, piece.tensor.dtype)
                for part, place in piece.parts(memoryview(host)):
                    table.fill(part, place)
                memory[offset : offset + piece.nbytes] = torch.frombuffer(host, dtype=torch.uint8).to(memory.device)
            offset += piece.nbytes

    def _drawn(self, piece: Piece, offset: int) -> Iterator[cuda.Part]:
        """Yield what a piece without its overlays is made of, on the GPU."""
        if isinstance(piece.tensor.law, Values):
            return
        prepared = self._laws.of(piece.tensor)
        for runs in piece.tensor.region.runs(piece.start, piece.stop):
            yield prepared, runs, offset
            offset += runs.size * piece.tensor.dtype.itemsize


def _draw(gpu: Gpu, parts: Sequence[cuda.Part], out: memoryview) -> None:
    """Draw parts in this thread's CUDA stream, and copy them to ``out``. The laws stay alive until this is done."""
    memory = torch.empty(len(out), dtype=torch.uint8, device=gpu.place)
    cuda.fill(parts, memory)
    gpu.fetch(memory, out)
