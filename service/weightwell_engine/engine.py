"""The engine: specs in, plans and virtual files out, on one device."""

from collections.abc import Generator as Steps
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING

from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators import Generator
from weightwell_engine.generators.devices import Device
from weightwell_engine.generators.factory import make_generator
from weightwell_engine.plan import UNLIMITED, Plan, make_plan
from weightwell_engine.spec import GENERATORS, Spec
from weightwell_engine.virtual_file import VirtualFile

if TYPE_CHECKING:
    from weightwell_engine.description import FileDescription
    from weightwell_engine.inspection import Inspection


class Engine:
    """Plans and opens files on one device. Any number of threads may use it at once.

    ``threads``: the number of threads that will draw at once. ``generators``: ready generators by name; the others are
    created when they are first used. On a CPU only ``generator=torch`` imports torch. ``without_torch``: why
    ``generator=torch`` is not allowed; None if it is.
    """

    def __init__(
        self,
        device: Device,
        *,
        threads: int,
        generators: Mapping[str, Generator] | None = None,
        without_torch: str | None = None,
    ):
        self.device = device
        self.threads = threads
        self._without_torch = without_torch
        self._lock = Lock()
        self._generators = dict(generators or {})

    def generator(self, name: str) -> Generator:
        """Return a generator by its name in a spec; raise ``UnsupportedSpec`` if it is not installed or disabled."""
        if missing := self._missing(name):
            detail = f"generator=torch {missing}; use generator=philox"
            raise UnsupportedSpec("generator", got=name, expected="philox", detail=detail)
        if name in self._generators:  # without the lock, which is held while torch is imported
            return self._generators[name]
        with self._lock:
            if name not in self._generators:
                self._generators[name] = make_generator(name, self.device, threads=self.threads)
            return self._generators[name]

    def generators(self) -> Iterator[Generator]:
        """Yield every available generator."""
        for name in GENERATORS:
            if not self._missing(name):
                yield self.generator(name)

    def _missing(self, name: str) -> str | None:
        """Return the reason why a generator is not available, or None."""
        if name != "torch":
            return None
        installed = name in self._generators or find_spec(name)
        return self._without_torch or (None if installed else "needs torch, which is not installed")

    def plan(self, spec: Spec, *, max_bytes: int = UNLIMITED) -> Plan:
        """Return the plan of a spec: every law, offset and size, before a number is drawn.

        Raises ``InvalidSpec`` or ``UnsupportedSpec`` for an invalid spec, and ``TooLarge`` for a file with more than
        ``max_bytes`` of data.
        """
        generator = self.generator(spec.generator)
        plan = make_plan(spec, generator.identity, portable=generator.portable, max_bytes=max_bytes)
        generator.check(plan)
        return plan

    def open(self, plan: Plan) -> VirtualFile:
        """Return the file of a plan."""
        return VirtualFile(plan, self.generator(plan.generator))

    def footprint(self, plan: Plan) -> int:
        """Return the bytes of device memory for whole matrices, in addition to the buffers."""
        return self.generator(plan.generator).footprint(plan)

    def describe(self, spec: Spec, plan: Plan) -> "FileDescription":
        """Return the description of a plan's file, tensor by tensor."""
        from weightwell_engine.description import describe

        return describe(spec, plan, self.generator(plan.generator))

    def inspect(self, spec: Spec, file: VirtualFile) -> "Steps[None, None, Inspection]":
        """Inspect the one tensor of a file, step by step, and return the result. ``spec`` is that of the file.

        ``inspection.check`` says whether a file can be inspected. Raises the errors of drawing.
        """
        from weightwell_engine.catalogue import GeneratorEntry
        from weightwell_engine.description import TensorDescription
        from weightwell_engine.inspection import inspect

        (described,) = (
            each for each in self.describe(spec, file.plan).tensors.values() if isinstance(each, TensorDescription)
        )
        return (yield from inspect(file, described, GeneratorEntry.of(file.generator)))
