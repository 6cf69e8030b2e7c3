"""File responses: serve a virtual file with ranges and preconditions, like a file on a disk."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weightwell_engine.exceptions import Busy, WeightwellError
from weightwell_engine.virtual_file import UNIT, VirtualFile
from weightwell_service.access.clients import check_bytes, requester
from weightwell_service.access.costs import Costs
from weightwell_service.budget import MemoryBudget
from weightwell_service.exceptions import PreconditionFailed
from weightwell_service.observation.log import request_line
from weightwell_service.ranges import etag_in, range_applies, select_range
from weightwell_service.scheduler import Scheduler
from weightwell_service.stream import Share, Stream, Totals, smallest

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/octet-stream"

# A portable file never changes under its URL. Other files change with the server's torch or its device, so a cache must
# revalidate them. It gets a 304 if the file is the same.
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"

# The most rules in a header field. More could exceed the buffers of common proxies for the head of a response.
MAX_UNUSED = 100


# The most bytes and nanoseconds of a file that is drawn on the event loop, if its generator is instant. A thread and
# its wake-ups would take longer.
_SMALL = 2**16
_INSTANT = 1_000_000

# The small files that are kept after they have been drawn: their number, and the most bytes of one. All processes of a
# job ask for the same small tensors.
_KEPT, _KEPT_NBYTES = 1024, 2**12

# Requests that take at most this many nanoseconds have priority over larger ones.
_FEW_UNITS = 2 * UNIT

# More nanoseconds than anything takes.
_UNLIMITED = 2**63

# Seconds between two checks of all streams.
_LOOK = 1.0


@dataclass
class DrawingResources:
    """The resources that all requests share: thread pools ("lanes"), memory, and the limit of concurrent responses.

    There are separate lanes for chunks, for matrices that must be generated whole, for each of these with torch, and
    for inspections and for signals. No lane waits for another. ``timeout``: seconds in which a chunk must be drawn.
    ``responses`` is the number of active responses, and ``kept`` has the latest small files.
    """

    budget: MemoryBudget
    threads: int
    timeout: float
    max_responses: int
    responses: int = 0

    def __post_init__(self) -> None:
        # One thread draws for all requests of torch, because torch has its own threads.
        threads = {
            "draw": self.threads,
            "draw-whole": self.threads,
            "draw-torch": 1,
            "draw-torch-whole": 1,
            "inspect": 1,
            "signal": 1,
        }
        self.totals = Totals()
        self.kept: dict[str, bytes] = {}  # by entity tag
        self.lanes = {name: Scheduler(number, name) for name, number in threads.items()}
        self._streams: set[Stream] = set()
        self._next_look: asyncio.TimerHandle | None = None

    def lane(self, file: VirtualFile, footprint: int) -> Scheduler:
        """Return the lane for a file with matrices of ``footprint`` bytes."""
        name = "draw-torch" if file.generator.name == "torch" else "draw"
        return self.lanes[f"{name}-whole" if footprint else name]

    def stuck(self) -> str | None:
        """Return a message about a lane that has work but has drawn nothing for longer than ``timeout``; or None."""
        for lane in self.lanes.values():
            if (waited := lane.waited()) > self.timeout:
                return f"the lane {lane.name} has work and has drawn nothing for {waited:.0f} s"
        return None

    @contextmanager
    def looked_at(self, stream: Stream) -> Iterator[None]:
        """Check a stream periodically while the context is active."""
        if not self._streams:
            self._look_later()
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)
            if not self._streams and self._next_look is not None:
                self._next_look.cancel()

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        for stream in self._streams:
            stream.look(time.monotonic())
        self._look_later()

    @contextmanager
    def response(self) -> Iterator[None]:
        """Count a response; raise ``Busy`` if there are too many."""
        if self.responses >= self.max_responses:
            raise Busy(
                f"this server is sending {self.max_responses} files, its limit (WEIGHTWELL_MAX_RESPONSES); try again",
                retry_after=5,
            )
        self.responses += 1
        try:
            yield
        finally:
            self.responses -= 1


def respond(
    method: str,
    request: Headers,
    file: VirtualFile,
    resources: DrawingResources,
    more: Mapping[str, str] | None = None,
    costs: Costs | None = None,
) -> Response:
    """Answer a request for a file, given its method and headers; ``more`` are lower-case headers of the answer.

    Preconditions are evaluated in the order of RFC 9110, section 13.2.2. Only GET has ranges. Nothing is drawn for
    HEAD, 304, 412 and 416. ``costs`` are the limits of the request; the CPU seconds are estimated when the answer is
    sent. Raises ``PreconditionFailed``, ``RangeNotSatisfiable``, ``TooLarge`` and ``NotAllowed``.
    """
    if costs is not None:
        costs.check_plan(file.plan)
    resources.budget.check(file.footprint)
    headers = _headers(file) | dict(more or {})
    if "if-match" in request and not etag_in(_listed(request, "if-match"), file.etag, weak=False):
        raise PreconditionFailed(file.etag)
    if method != "POST" and etag_in(_listed(request, "if-none-match"), file.etag, weak=True):
        return Response(status_code=304, headers=headers)
    wanted = None
    if method == "GET" and range_applies(request.get("if-range"), file.etag):
        wanted = select_range(request.get("range"), file.nbytes)
    start, stop = wanted or (0, file.nbytes)
    headers |= {"content-length": str(stop - start), "content-type": MEDIA_TYPE}
    if method == "HEAD":
        return Response(headers=headers)
    if wanted:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{file.nbytes}"
    status = 206 if wanted else 200
    if file.nbytes <= _SMALL and (small := _small(file, start, stop, resources)) is not None:
        return _Bytes(small, status, headers)
    return FileResponse(status, headers, Section(file, start, stop), resources, costs)


def _small(file: VirtualFile, start: int, stop: int, resources: DrawingResources) -> memoryview | None:
    """Return the bytes ``start ... stop - 1`` of a small file; None if the event loop should not draw them."""
    if (kept := resources.kept.get(file.etag)) is not None:
        return memoryview(kept)[start:stop]
    if not file.generator.instant(file.plan) or file.cost(start, stop, limit=_INSTANT) >= _INSTANT:
        return None
    buffer = bytearray(stop - start)
    file.read_into(start, buffer)
    resources.totals.drew(len(buffer))
    if len(buffer) == file.nbytes <= _KEPT_NBYTES:
        if len(resources.kept) >= _KEPT:
            resources.kept.clear()
        resources.kept[file.etag] = bytes(buffer)
    return memoryview(buffer)


class _Bytes(Response):
    """A response with complete lower-case headers. Starlette's own class takes longer than drawing the bytes."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Encode the headers."""
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]


def _listed(request: Headers, name: str) -> str:
    """Return the value of a list header, which may come in several lines."""
    return ", ".join(request.getlist(name))


def _headers(file: VirtualFile) -> dict[str, str]:
    tensors = file.plan.tensors
    stem = tensors[0].name if len(tensors) == 1 else "weights"
    filename = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:100]
    unused = ", ".join(f"rules.{place}" for place in file.plan.unused[:MAX_UNUSED])
    return {
        "accept-ranges": "bytes",
        "cache-control": IMMUTABLE if file.generator.portable else REVALIDATE,
        "content-disposition": f'attachment; filename="{filename}.safetensors"',
        "etag": file.etag,
        "weightwell-generator": file.plan.identity,
        # For every range, a stream is generated from its beginning, and a matrix is generated whole.
        "weightwell-range-cost": "proportional" if file.generator.portable and not file.footprint else "whole",
        **({"weightwell-unused-rules": unused} if unused else {}),
        "x-content-type-options": "nosniff",
    }


@dataclass(frozen=True, slots=True)
class Section:
    """The bytes ``[start, stop)`` of a file."""

    file: VirtualFile
    start: int
    stop: int

    @property
    def footprint(self) -> int:
        """Bytes of matrices that are kept for drawing the section; 0 for bytes of the header."""
        return self.file.footprint if self.stop > len(self.file.plan.header) else 0


class FileResponse(Response):
    """Streams a section of a file; stops drawing when the client disconnects.

    The status is sent after the first chunk has been drawn, so that an earlier failure is an HTTP error. A later
    failure can only close the connection, and the client sees that bytes are missing.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        section: Section,
        resources: DrawingResources,
        costs: Costs | None = None,
    ):
        super().__init__(status_code=status, headers=dict(headers))
        self._section = section
        self._resources = resources
        self._costs = costs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and watch for a disconnect."""
        sending = asyncio.ensure_future(self._send(scope, send))
        leaving = asyncio.ensure_future(disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, scope: Scope, send: Send) -> None:
        async with self._stream(scope) as stream, aclosing(stream.chunks()) as chunks:
            chunk = await anext(chunks)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            del chunk  # its memory is free when the server has sent it
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    del chunk
            except WeightwellError as error:
                log.warning("the response to %s was cut off: %s", request_line(scope), error)
                return  # the server closes the connection
        await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def _stream(self, scope: Scope) -> AsyncIterator[Stream]:
        """Wait for the least memory of the stream, and open it.

        Raises ``TooLarge`` if it needs too many CPU seconds, and ``Exceeded`` if the client may not have its bytes.
        """
        resources, section, file = self._resources, self._section, self._section.file
        check_bytes(scope, section.stop - section.start)  # before anything is drawn
        if self._costs is not None and self._costs.max_cpu_seconds is not None:
            # A file of thousands of tensors takes a moment to estimate, in which the event loop must not wait.
            await run_in_threadpool(check_seconds, self._costs, file, section.start, section.stop)
        footprint, kept = section.footprint, file.kept if section.footprint else 0
        async with AsyncExitStack() as held:
            held.enter_context(resources.response())
            # One chunk that is being sent, and one that is being drawn.
            account = await held.enter_async_context(resources.budget.response(2 * smallest(file.generator.chunk)))
            matrices = None
            if footprint:
                matrices = await held.enter_async_context(resources.budget.matrices(kept, footprint - kept))
            cost = file.cost(section.start, section.stop, limit=_FEW_UNITS)
            share = Share(
                turns=resources.lane(file, footprint),
                requester=requester(scope, small=cost < _FEW_UNITS, costs=self._costs),
                account=account,
                matrices=matrices,
                streams=lambda: resources.responses,
                timeout=resources.timeout,
                totals=resources.totals,
            )
            stream = Stream(file, section.start, section.stop, share)
            held.enter_context(resources.looked_at(stream))
            yield stream


def check_seconds(costs: Costs, file: VirtualFile, start: int, stop: int) -> None:
    """Raise ``TooLarge`` if drawing the bytes ``start ... stop - 1`` of a file needs more CPU seconds than allowed."""
    if costs.max_cpu_seconds is not None:
        seconds = file.cost(start, stop, limit=_UNLIMITED) / 1e9
        cure = "request a smaller range or slice, or fewer tensors at once"
        costs.check_seconds(seconds, f"the answer of {stop - start} bytes", cure)


async def disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
