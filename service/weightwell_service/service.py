"""The service behind the routes: specs in, files and descriptions out, within the limits of a deployment."""

import gc
import logging
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from fastapi import Request

from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import TooLarge
from weightwell_engine.generators import Generator
from weightwell_engine.plan import Plan, check_size
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service import __version__
from weightwell_service.answers import NotReady, PlanAnswer, Ready
from weightwell_service.file_response import DrawingResources
from weightwell_service.queries import read_query
from weightwell_service.reading import Lanes
from weightwell_service.recent import RecentPlans, plan_nbytes
from weightwell_service.settings import Settings

log = logging.getLogger(__name__)

# Bytes of a plan that counts in the memory budget; smaller ones are part of what a connection takes.
_COUNTED = 2**16


@dataclass
class Service:
    """One for each application.

    ``lanes`` read long specs. ``health`` is a thread of its own for readiness, which waits for no other work.
    """

    settings: Settings
    engine: Engine
    resources: DrawingResources
    lanes: Lanes = field(default_factory=Lanes)
    health: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="health"))
    recent: RecentPlans = field(default_factory=RecentPlans)
    started: bool = False
    failure: str | None = None

    def warm_up(self, generators: Iterable[Generator]) -> None:
        """Make the generators ready for which the service does not wait when it starts: importing torch takes seconds.

        This runs in the thread of ``health``, so ``/health/ready`` answers when it is done.
        """
        try:
            for generator in generators:
                generator.warm_up()
        except Exception as error:
            self.failure = f"a generator cannot be used: {error}"
            log.exception("a generator cannot be used")
        # What is there now stays. To look through all of it for garbage takes a tenth of a second, and all wait for it.
        gc.collect()
        gc.freeze()

    def open(self, spec: Spec) -> VirtualFile:
        """Return the file of a spec; raise what is wrong with it, or ``TooLarge``."""
        return self.engine.open(self._plan(spec))

    def open_recent(self, query: bytes) -> VirtualFile | None:
        """Return the file of a query that a recent request planned, or None."""
        plan = self.recent.get(query)
        return None if plan is None else self.engine.open(plan)

    def open_query(self, query: bytes, items: list[tuple[str, str]]) -> VirtualFile:
        """Return the file of a query, and keep its plan; ``items`` are its fields, in order. Raises as ``open``."""
        plan = self._plan(read_query(items, max_manifest=self.settings.max_request_bytes))
        self.recent.put(query, plan)
        return self.engine.open(plan)

    def describe(self, spec: Spec) -> PlanAnswer:
        """Describe a spec's file, even one that is too large for this deployment; raise what else is wrong."""
        plan, refusal = self._held(self.engine.plan(spec)), None
        try:
            check_size(plan.data_nbytes, self.settings.max_bytes)
            self.resources.budget.check(self.engine.footprint(plan))
        except TooLarge as error:
            refusal = str(error)
        return PlanAnswer.of(spec, self.engine.describe(spec, plan), refusal)

    def readiness(self) -> Ready | NotReady:
        """Return whether requests should be sent here. Asks the device, which may take a moment."""
        trouble = self.engine.device.trouble()
        reason = f"the device is lost: {trouble}" if trouble else self.failure or self.resources.stuck()
        if not self.started:
            reason = "starting or stopping"
        device = str(self.engine.device)
        generators = {generator.name: generator.identity for generator in self.engine.generators()}
        if reason:
            return NotReady(reason=reason, version=__version__, device=device, generators=generators)
        return Ready(version=__version__, device=device, generators=generators)

    def shutdown(self) -> None:
        """Begin nothing more."""
        self.lanes.shutdown()
        self.health.shutdown(wait=False, cancel_futures=True)
        gc.unfreeze()

    def _plan(self, spec: Spec) -> Plan:
        return self._held(self.engine.plan(spec, max_bytes=self.settings.max_bytes))

    def _held(self, plan: Plan) -> Plan:
        """Return a plan, whose memory is counted for as long as somebody holds it; raise ``Busy`` for too much."""
        if (nbytes := plan_nbytes(plan)) > _COUNTED:
            self.resources.budget.hold(plan, nbytes)
        return plan


def service_of(request: Request) -> Service:
    """Return the service of a request's application."""
    service: Service = request.app.state.service
    return service
