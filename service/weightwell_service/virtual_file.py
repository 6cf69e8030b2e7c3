"""The response that is a virtual file: a plan, answered as a web server answers for a file on its disk."""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weightwell_service.exceptions import PreconditionFailed
from weightwell_service.generators import Generator
from weightwell_service.plan import Plan
from weightwell_service.ranges import etag_in, range_applies, select_range
from weightwell_service.stream import Memory, stream

MEDIA_TYPE = "application/octet-stream"

# A portable file never changes under its URL. One that is not changes with the server's torch or its device, so a cache
# has to ask, and gets a 304 for as long as it has not.
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"


@dataclass(frozen=True)
class Workshop:
    """What drawing takes: threads, others for files of which something is drawn whole, and memory for that.

    A matrix can take many seconds. It has threads of its own, so that nobody who wants something else waits for it.
    """

    executor: Executor
    executor_of_wholes: Executor
    memory: Memory

    def threads(self, footprint: int) -> Executor:
        """Return the threads that draw a file which takes so many bytes for what is drawn whole."""
        return self.executor_of_wholes if footprint else self.executor


def respond(
    method: str, request: Headers, plan: Plan, generator: Generator, workshop: Workshop
) -> "Response | VirtualFile":
    """Answer a request for a planned file, given its method and headers.

    Preconditions are looked at in the order of RFC 9110, section 13.2.2. Ranges belong to GET alone. Nothing is drawn
    for HEAD, 304, 412 and 416. Raises ``PreconditionFailed``, ``RangeNotSatisfiable`` and ``TooLarge``.
    """
    footprint = generator.footprint(plan)
    workshop.memory.admit(footprint)
    headers = _headers(plan, generator)
    if "if-match" in request and not etag_in(_listed(request, "if-match"), plan.etag, weak=False):
        raise PreconditionFailed(plan.etag)
    if method != "POST" and etag_in(_listed(request, "if-none-match"), plan.etag, weak=True):
        return Response(status_code=304, headers=headers)
    wanted = None
    if method == "GET" and range_applies(request.get("if-range"), plan.etag):
        wanted = select_range(request.get("range"), plan.nbytes)
    start, stop = wanted or (0, plan.nbytes)
    headers |= {"content-length": str(stop - start), "content-type": MEDIA_TYPE}
    if method == "HEAD":
        return Response(headers=headers)
    if wanted:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{plan.nbytes}"
    if stop <= len(plan.header):
        footprint = 0
    return VirtualFile(plan, generator, workshop, footprint, 206 if wanted else 200, headers, (start, stop))


def _listed(request: Headers, name: str) -> str:
    """Return a header whose value is a list, which may be spread over several lines."""
    return ", ".join(request.getlist(name))


def _headers(plan: Plan, generator: Generator) -> dict[str, str]:
    stem = plan.tensors[0].name if len(plan.tensors) == 1 else "weights"
    filename = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:100]
    return {
        "accept-ranges": "bytes",
        "cache-control": IMMUTABLE if generator.portable else REVALIDATE,
        "content-disposition": f'attachment; filename="{filename}.safetensors"',
        "etag": plan.etag,
        "weightwell-generator": plan.identity,
        "x-content-type-options": "nosniff",
    }


class VirtualFile(Response):
    """Streams the bytes ``[start, stop)`` of a planned file; stops drawing when the reader goes away.

    The status is sent once the first chunk has been drawn, so that a failure to draw is an HTTP error. After that, a
    failure can only close the connection, and the reader sees that bytes are missing.
    """

    def __init__(
        self,
        plan: Plan,
        generator: Generator,
        workshop: Workshop,
        footprint: int,
        status: int,
        headers: Mapping[str, str],
        span: tuple[int, int],
    ):
        super().__init__(status_code=status, headers=dict(headers))
        self._plan = plan
        self._generator = generator
        self._workshop = workshop
        self._footprint = footprint
        self._span = span

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
            reserved.enter_context(self._workshop.memory.reserve(self._footprint))
            threads, whole = self._workshop.threads(self._footprint), self._footprint > 0
            chunks = stream(self._plan, self._generator, threads, *self._span, whole=whole, drawn=reserved.close)
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
