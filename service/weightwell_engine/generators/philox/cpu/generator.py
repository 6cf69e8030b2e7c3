"""The philox generator on the CPU. Numba is imported when a kernel is needed; planning and small tensors need none."""

from weightwell_engine.forks import loading
from weightwell_engine.generators import Drawing
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.philox.cpu.drawing import CpuDrawing
from weightwell_engine.generators.philox.generator import PhiloxGenerator
from weightwell_engine.plan import Plan, PlannedTensor


class CpuPhiloxGenerator(PhiloxGenerator):
    """Draws with compiled kernels, in any number of threads; at first with the reference, if little is drawn."""

    chunk = Cpu.chunk

    def __init__(self, threads: int):
        # One chunk for every thread, and one in the queue.
        self.concurrency = threads + 1
        self._threads = threads
        self._warm = False

    def warm_up(self) -> None:
        """Load the common kernels and check their known answers; raise ``GeneratorUnsound`` for a wrong answer."""
        with loading:
            from weightwell_engine.generators.philox.cpu.checked import warm_up

        warm_up()
        self._warm = True

    def instant(self, plan: Plan) -> bool:
        """Return whether every kernel that the plan needs is ready, and no matrix has to be generated whole."""
        if not self._warm or plan.matrices:
            return False
        with loading:
            from weightwell_engine.generators.philox.cpu.checked import is_ready

        return all(is_ready(layer.law, layer.dtype) for tensor in plan.tensors for layer in tensor.layers)

    def allocate(self, nbytes: int) -> memoryview:
        """Return uninitialized memory, aligned to a cache line."""
        return Cpu.allocate(nbytes)

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file."""
        del plan
        return CpuDrawing(self._threads)

    def resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes kept for drawing a tensor, not counting the chunks."""
        if not tensor.is_matrix:
            return 0
        with loading:
            from weightwell_engine.generators.philox.cpu.memory import resident

        return resident(tensor, self._threads)
