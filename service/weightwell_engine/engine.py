"""The engine: specs in, plans and virtual files out, on one device."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from threading import Lock

from weightwell_engine.description import FileDescription, describe
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators import Generator
from weightwell_engine.generators.devices import Device
from weightwell_engine.generators.factory import make_generator
from weightwell_engine.plan import UNLIMITED, Plan, make_plan
from weightwell_engine.spec import GENERATORS, Spec
from weightwell_engine.virtual_file import VirtualFile


class Engine:
    """Plans and opens files on one device. Any number of threads may use it at once.

    ``threads``: how many will draw at once. ``generators``: by name, instead of those that are made when they are first
    needed; on a CPU only ``generator=torch`` imports torch.
    """

    def __init__(self, device: Device, *, threads: int, generators: Mapping[str, Generator] | None = None):
        self.device = device
        self.threads = threads
        self._lock = Lock()
        self._generators = dict(generators or {})

    def generator(self, name: str) -> Generator:
        """Return a generator by its name in a spec; raise ``UnsupportedSpec`` if what it needs is not installed."""
        with self._lock:
            if name not in self._generators:
                if name == "torch" and find_spec("torch") is None:
                    detail = "generator=torch needs torch, which is not installed; use generator=philox"
                    raise UnsupportedSpec("generator", got=name, expected="philox", detail=detail)
                self._generators[name] = make_generator(name, self.device, threads=self.threads)
            return self._generators[name]

    def generators(self) -> Iterator[Generator]:
        """Yield every generator that can be used here."""
        for name in GENERATORS:
            if name != "torch" or find_spec("torch"):
                yield self.generator(name)

    def plan(self, spec: Spec, *, max_bytes: int = UNLIMITED) -> Plan:
        """Return the plan of a spec: every law, offset and size, before a number is drawn.

        Raises ``InvalidSpec`` or ``UnsupportedSpec`` for what cannot be drawn, and ``TooLarge`` for a file with more
        than ``max_bytes`` of data.
        """
        generator = self.generator(spec.generator)
        plan = make_plan(spec, generator.identity, portable=generator.portable, max_bytes=max_bytes)
        generator.check(plan)
        return plan

    def open(self, plan: Plan) -> VirtualFile:
        """Return the file of a plan."""
        return VirtualFile(plan, self.generator(plan.generator))

    def footprint(self, plan: Plan) -> int:
        """Return the bytes of the device's memory that drawing keeps, besides buffers, for whole matrices."""
        return self.generator(plan.generator).footprint(plan)

    def describe(self, spec: Spec, plan: Plan) -> FileDescription:
        """Return what the file of a plan holds, tensor by tensor."""
        return describe(spec, plan, self.generator(plan.generator))
