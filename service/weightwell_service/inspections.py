"""Inspections: the statistics of one tensor, computed in a thread, and stopped when the client leaves."""

import asyncio
from typing import cast

from fastapi import Request

from weightwell_engine.exceptions import Busy
from weightwell_engine.inspection import Inspection, check, memory
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.access.clients import requester
from weightwell_service.file_response import check_seconds, disconnect
from weightwell_service.scheduler import checked
from weightwell_service.service import Service

# The most nanoseconds of one thread for one inspection: of 100 million elements, if they are quick to draw.
MOST = 5_000_000_000


async def inspect(service: Service, request: Request, spec: Spec, file: VirtualFile) -> Inspection:
    """Return the inspection of the one tensor of a file.

    Raises ``InvalidSpec`` for another number of tensors, ``TooLarge``, ``NotAllowed``, ``Busy``, and the errors of
    drawing.
    """
    costs = service.costs_of(request)
    if costs is not None:
        costs.check_plan(file.plan)
        check_seconds(costs, file, 0, file.nbytes)
    check(file, most_nanoseconds=MOST)
    resources = service.resources
    resources.budget.check(file.footprint)
    asking = requester(request.scope, small=False, costs=costs)
    with resources.response():
        async with resources.budget.matrices(file.footprint + memory(file), 0):
            job = resources.lanes["inspect"].submit(checked(service.engine.inspect(spec, file), asking), asking)
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
