"""File responses: a virtual file, served as a web server serves a file on its disk."""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.budget import MemoryBudget
from weightwell_service.exceptions import PreconditionFailed
from weightwell_service.ranges import etag_in, range_applies, select_range
from weightwell_service.stream import stream

MEDIA_TYPE = "application/octet-stream"

# A portable file never changes under its URL. One that is not changes with the server's torch or its device, so a cache
# has to ask, and gets a 304 for as long as it has not.
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"

# Rules that a header field lists. More may not fit the buffers that common proxies have for the head of a response.
MAX_UNUSED = 100


# Bytes of a file that is drawn on the event loop, if its generator is instant: a thread and its wake-ups would take
# longer than drawing it.
_SMALL = 2**16


@dataclass(frozen=True)
class DrawingResources:
    """Two thread pools, and the memory budget of the second.

    ``streamed`` draws chunks. ``whole`` draws files with matrices that must be generated whole, which can take seconds:
    they have threads of their own, so that other requests do not wait for them.
    """

    streamed: Executor
    whole: Executor
    budget: MemoryBudget

    def pool(self, footprint: int) -> Executor:
        """Return the pool for a file whose matrices need so many bytes."""
        return self.whole if footprint else self.streamed


def respond(method: str, request: Headers, file: VirtualFile, resources: DrawingResources) -> Response:
    """Answer a request for a file, given its method and headers.

    Preconditions are evaluated in the order of RFC 9110, section 13.2.2. Ranges belong to GET alone. Nothing is drawn
    for HEAD, 304, 412 and 416. Raises ``PreconditionFailed``, ``RangeNotSatisfiable`` and ``TooLarge``.
    """
    resources.budget.check(file.footprint)
    headers = _headers(file)
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
    if file.nbytes <= _SMALL and file.generator.instant(file.plan):
        buffer = bytearray(stop - start)
        file.read_into(start, buffer)
        return _Bytes(memoryview(buffer), status, headers)
    return FileResponse(status, headers, Section(file, start, stop), resources)


class _Bytes(Response):
    """A response whose headers are complete and lower-case: Starlette's own takes longer than drawing the bytes."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Encode the headers."""
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]


def _listed(request: Headers, name: str) -> str:
    """Return a header whose value is a list, which may be spread over several lines."""
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
        # A stream is generated from its beginning, and a matrix as a whole, for every range of it.
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
        """Bytes that drawing the section keeps of matrices; none for bytes of the header."""
        return self.file.footprint if self.stop > len(self.file.plan.header) else 0


class FileResponse(Response):
    """Streams a section of a file; stops drawing when the reader goes away.

    The status is sent once the first chunk has been drawn, so that a failure to draw is an HTTP error. After that, a
    failure can only close the connection, and the reader sees that bytes are missing.
    """

    def __init__(self, status: int, headers: Mapping[str, str], section: Section, resources: DrawingResources):
        super().__init__(status_code=status, headers=dict(headers))
        self._section = section
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and meanwhile listen for the reader's leaving."""
        del scope
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        with ExitStack() as reserved:
            section, footprint = self._section, self._section.footprint
            reserved.enter_context(self._resources.budget.reserve(footprint))
            span, threads = (section.start, section.stop), self._resources.pool(footprint)
            chunks = stream(section.file, threads, *span, whole=footprint > 0, drawn=reserved.close)
            async with aclosing(chunks):
                chunk = await anext(chunks)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnect(receive: Receive) -> None:
    """Return when the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
