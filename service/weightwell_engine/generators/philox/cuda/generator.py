"""The philox generator on a GPU: pieces of a plan, drawn there and copied into memory of the host.

A chunk is drawn in a few launches, whatever tensors it has parts of, and copied to pinned memory. Each drawing thread
has a queue of its own on the GPU, so that one chunk is drawn while another is copied, and a third is with the socket.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.generators import Drawing
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox import cuda
from weightwell_engine.generators.philox.generator import Laws, PhiloxGenerator
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS, NAME, SEED
from weightwell_engine.laws import Law, Normal, TruncatedNormal, Uniform
from weightwell_engine.plan import Piece, Plan, PlannedTensor
from weightwell_engine.regions import Runs

COMMON: tuple[Law, ...] = Uniform(-1.0, 1.0), Normal(0.0, 1.0), TruncatedNormal(0.0, 1.0, -2.0, 2.0)

# Elements of which some are drawn one by one, and the rest by fours.
_UNEVEN = Runs(first=3, length=1026, stride=0, count=1)


class CudaPhiloxGenerator(PhiloxGenerator):
    """Draws on a GPU what the CPU would, bit for bit."""

    # One chunk that is drawn, one that is copied, and one that is ready when the socket has taken the last.
    concurrency = 3

    def __init__(self, gpu: Gpu):
        self.chunk = gpu.chunk
        self._gpu = gpu

    def warm_up(self) -> None:
        """Compile the kernels and check their known answers on the GPU; raise ``GeneratorUnsound`` if one is wrong."""
        for answer in KNOWN_ANSWERS:
            answer.require(self._drawn)
        with self._gpu.queue():
            _draw(self._gpu, list(self._commonplaces()), self._gpu.allocate(8 * (_UNEVEN.first + _UNEVEN.size)))

    def allocate(self, nbytes: int) -> memoryview:
        """Return pinned memory of the host, which the GPU copies to by itself."""
        return self._gpu.allocate(nbytes)

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file."""
        del plan
        return CudaDrawing(self._gpu)

    def resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes of the GPU's memory that are kept to draw a tensor, beside the chunks themselves."""
        return cuda.nbytes(tensor.law, tensor.dtype)

    def _commonplaces(self) -> Iterator[cuda.Part]:
        """Yield what compiles what nearly all requests are for, and the known answers may not go through."""
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
    """One file in the drawing."""

    def __init__(self, gpu: Gpu):
        self._gpu = gpu
        self._laws = Laws(self._prepare)

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, one piece after the other, into ``out``, memory of the host."""
        with self._gpu.queue():
            _draw(self._gpu, list(self._parts(pieces)), out)

    def close(self) -> None:
        """Let go of what was prepared."""
        self._laws.clear()

    def _prepare(self, tensor: PlannedTensor) -> cuda.Prepared:
        return cuda.prepare(tensor.law, tensor.dtype, tensor.seed, tensor.name, self._gpu.place)

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[cuda.Part]:
        """Yield what pieces are made of: a law, which of its elements, and how many bytes come before them."""
        offset = 0
        for piece in pieces:
            prepared = self._laws.of(piece.tensor)
            for runs in piece.tensor.region.runs(piece.start, piece.stop):
                yield prepared, runs, offset
                offset += runs.size * piece.tensor.dtype.itemsize


def _draw(gpu: Gpu, parts: Sequence[cuda.Part], out: memoryview) -> None:
    """Draw parts on the GPU, in this thread's queue, and copy them to ``out``. Laws are held until they are done."""
    memory = torch.empty(len(out), dtype=torch.uint8, device=gpu.place)
    cuda.fill(parts, memory)
    gpu.fetch(memory, out)
