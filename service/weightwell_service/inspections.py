"""Inspections: the statistics of one tensor, computed in a thread, and stopped when the client leaves."""

import asyncio
from typing import cast

from fastapi import Request

from weightwell_engine.exceptions import Busy
from weightwell_engine.inspection import Inspection, check, memory
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.file_response import disconnect
from weightwell_service.scheduler import Requester
from weightwell_service.service import Service

# The most nanoseconds of one thread for one inspection: of 100 million elements, if they are quick to draw.
MOST = 5_000_000_000


async def inspect(service: Service, request: Request, spec: Spec, file: VirtualFile) -> Inspection:
    """Return the inspection of the one tensor of a file.

    Raises ``InvalidSpec`` for another number of tensors, ``TooLarge``, ``Busy``, and the errors of drawing.
    """
    check(file, most_nanoseconds=MOST)
    resources = service.resources
    resources.budget.check(file.footprint)
    client = request.client.host if request.client else ""
    with resources.response():
        async with resources.budget.matrices(file.footprint + memory(file), 0):
            job = resources.lanes["inspect"].submit(service.engine.inspect(spec, file), Requester(client, small=False))
            done: asyncio.Future[Inspection] = asyncio.wrap_future(job)
            leaving: asyncio.Future[None] = asyncio.ensure_future(disconnect(request.receive))
            try:
                await asyncio.wait(
                    cast("list[asyncio.Future[object]]", [done, leaving]), return_when=asyncio.FIRST_COMPLETED
                )
                if not done.done():
                    raise Busy("the client closed the connection before its tensor was inspected")
                return done.result()
            finally:
                job.cancel()  # if it has not begun; and otherwise it ends at its next block
                file.close()
                leaving.cancel()
                await asyncio.gather(leaving, done, return_exceptions=True)
