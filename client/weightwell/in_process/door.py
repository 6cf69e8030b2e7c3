"""The doors to the engine in this process, for both clients."""

import time
from threading import Lock
from typing import Any

import anyio
import anyio.to_thread

from weightwell.calls import Call, Caller
from weightwell.exceptions import TimedOut
from weightwell.files.remote import OpenFile
from weightwell.in_process.address import Address
from weightwell.in_process.drawing import SMALL, SMALLEST_CHUNK, Job, chunk_of, draw_at_once
from weightwell.in_process.engines import Engines
from weightwell.in_process.plans import Plans
from weightwell.in_process.refusals import refusal, refusals
from weightwell.spec import ManifestSpec, TensorSpec
from weightwell.transfers.destinations import Destination, SafetensorsFile
from weightwell.transfers.progress import Progress
from weightwell_engine.exceptions import WeightwellError
from weightwell_engine.plan import Plan


class Cancelled(Exception):
    """The task that waits for a drawing was cancelled."""


class Drawing:
    """One call: it is made in one thread, and may be stopped in another."""

    def __init__(self, call: Call[Any], progress: Progress, engines: Engines, plans: Plans, seconds: float):
        self._call = call
        self._progress = progress
        self._plans = plans
        self._engines = engines
        self._until = time.monotonic() + seconds
        self._turn = Lock()
        self._stopped = False
        self._job: Job | None = None

    def run(self) -> str:
        """Bring the answer to its destination; return the rules that no tensor uses."""
        with self._turn:
            try:
                return self._run()
            except WeightwellError as error:
                raise refusal(error) from error

    def _run(self) -> str:
        request, destination = self._call.request, self._call.destination
        if self._stopped:
            raise Cancelled
        if not isinstance(destination, SafetensorsFile):
            from weightwell.in_process import answers  # it imports parts of the engine that tensors do not need

            _write(answers.document(request, self._engines, self._go_on), destination)
            return ""
        plan = self._plans.of(request)
        self._progress.start(plan.data_nbytes)
        destination.begin(lambda: plan.header, plan.data_nbytes, spec=plan.spec.document())
        if plan.data_nbytes < SMALL:
            self._go_on()
            draw_at_once(plan, destination, self._engines)
            self._progress.advance(plan.data_nbytes)
        else:
            self._job = Job(plan, destination, self._progress, self._engines, self._until)
            if self._stopped:
                raise Cancelled
            self._job.run()
        return ", ".join([f"rules.{place}" for place in plan.unused]) if plan.unused else ""

    def _go_on(self) -> None:
        """Raise if the call was stopped, or takes too long."""
        if self._stopped:
            raise Cancelled
        if time.monotonic() >= self._until:
            raise TimedOut("the call took longer than its deadline= allows")

    def stop(self) -> None:
        """Let ``run`` end soon."""
        self._stopped = True
        if self._job is not None:
            self._job.stop(Cancelled())

    def wait(self) -> None:
        """Wait until ``run`` has ended, if it has begun. Nothing is written after this."""
        with self._turn:
            pass


class File:
    """The bytes of a file, in any order, drawn by the calling thread and its helpers."""

    def __init__(self, engines: Engines, plan: Plan):
        self._engines = engines
        self._file = engines.of().open(plan)

    @property
    def nbytes(self) -> int:
        """The size of the file in bytes."""
        return self._file.nbytes

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from ``start`` on, up to the end of the file; return the number of bytes."""
        with refusals():
            if len(buffer) < 2 * SMALLEST_CHUNK or not self._engines.helpers:
                return self._file.read_into(start, buffer)
            chunk = chunk_of(len(buffer), self._engines.helpers)
            parts = range(0, len(buffer), chunk)
            read = self._engines.executor().map(
                lambda at: self._file.read_into(start + at, buffer[at : at + chunk]), parts
            )
            return sum(read)

    def close(self) -> None:
        """Release the matrices that were drawn."""
        self._file.close()


def _write(document: bytes, destination: Destination) -> None:
    position = 0
    for buffer in destination.head(len(document), None, None):
        buffer[:] = document[position : position + len(buffer)]
        position += len(buffer)


class _Local:
    """What both doors have: an address and engines. A copy, in this process or another, has engines of its own."""

    def __init__(self, url: str):
        self.address = url
        self.engines = Engines(Address.of(url))
        self.plans = Plans(self.engines)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.address,)

    def url(self, path: str | None) -> None:
        """Return None: files of this process have no address."""
        del path


class LocalDoor(_Local):
    """Answers the calls of a synchronous client in this process."""

    def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Draw the answer of a call into its destination. Raise an error if it takes more than ``seconds``."""
        return Drawing(call, progress, self.engines, self.plans, seconds).run()

    def open(self, spec: TensorSpec | ManifestSpec, _make: Caller) -> OpenFile:
        """Return a file object of the file of a spec."""
        with refusals():
            return OpenFile(File(self.engines, self.plans.of(spec.request)), self.address)

    def close(self) -> None:
        """End the threads that draw."""
        self.engines.close()


class AsyncLocalDoor(_Local):
    """Answers the calls of an asynchronous client in this process, in threads."""

    async def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Draw the answer of a call into its destination. Raise an error if it takes more than ``seconds``."""
        drawing = Drawing(call, progress, self.engines, self.plans, seconds)
        try:
            unused = await anyio.to_thread.run_sync(drawing.run, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            drawing.stop()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(drawing.wait)
            raise
        return unused

    async def aclose(self) -> None:
        """End the threads that draw."""
        self.engines.close()
