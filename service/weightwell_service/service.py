"""The service behind the routes: returns files and descriptions for specs, within the limits of a deployment."""

import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

from fastapi import Request

from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.generators import Generator
from weightwell_engine.plan import Plan, check_size
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service import __version__
from weightwell_service.access.clients import Client, known_client
from weightwell_service.access.costs import Costs
from weightwell_service.access.guard import Gate
from weightwell_service.access.signatures import LONGEST, signed
from weightwell_service.answers import NotReady, PlanAnswer, Ready
from weightwell_service.file_response import DrawingResources, check_seconds
from weightwell_service.observation.metrics import Metrics
from weightwell_service.parse_queues import Lanes
from weightwell_service.plan_cache import PlanCache, plan_nbytes
from weightwell_service.queries import read_query
from weightwell_service.repositories.repository import Repository
from weightwell_service.repositories.twin import Twin, Twins
from weightwell_service.saturation import Saturation
from weightwell_service.settings import Settings
from weightwell_service.signal_response import SignalResources

log = logging.getLogger(__name__)

# New objects after which Python looks for cyclic garbage: its own number, and that of the service. A long spec becomes
# millions of objects and no garbage, and with Python's number a quarter of its time goes into looking.
_USUAL, _RARE = gc.get_threshold()[0], 50_000

# The least bytes of a plan that counts in the memory budget; smaller plans count as part of a connection.
_COUNTED = 2**16


@dataclass
class Service:
    """The service. There is one for each application.

    ``lanes`` parse long specs. ``sizes`` are the bytes and entity tags of recent files of repositories. ``health`` is a
    separate thread for readiness, which never waits for other work. ``costs`` are the limits of each request on a
    server without tokens; None if there are none.
    """

    settings: Settings
    engine: Engine
    resources: DrawingResources
    lanes: Lanes = field(default_factory=Lanes)
    health: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="health"))
    recent: PlanCache = field(default_factory=PlanCache)
    repositories: Mapping[str, Repository] = field(default_factory=dict)
    gate: Gate | None = None
    costs: Costs | None = None
    saturation: Saturation | None = None
    metrics: Metrics = field(default_factory=Metrics)
    twins: Twins | None = None
    sizes: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    started: bool = False
    draining: bool = False
    failure: str | None = None

    @cached_property
    def signals(self) -> SignalResources:
        """The resources for measuring signals."""
        return SignalResources(self.engine, self.resources, self.settings.max_signal_operations)

    def warm_up(self, generators: Iterable[Generator]) -> None:
        """Prepare the other generators in the background: importing torch takes seconds.

        This runs in the thread of ``health``, so ``/health/ready`` answers after it.
        """
        try:
            for generator in generators:
                generator.warm_up()
        except Exception as error:
            self.failure = f"a generator cannot be used: {error}"
            log.exception("a generator cannot be used")
        # Existing objects stay alive. A garbage collection of all of them would stop every request for 0.1 s.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_RARE)

    async def repository(self, name: str, wanted: str) -> Repository | Twin | None:
        """Return a repository, or the twin that has the revision ``wanted``; None if there is none.

        Raises the errors of ``Twins.find``.
        """
        found = self.repositories.get(name)
        if found is None and self.twins is not None:
            return await self.twins.find(name, wanted)
        return found

    def costs_of(self, request: Request) -> Costs | None:
        """Return the limits of a request; None if it has none."""
        client = known_client(request.scope)
        return self.costs if client is None else client.costs

    def open(self, spec: Spec, costs: Costs | None = None) -> VirtualFile:
        """Return the file of a spec; raise the errors of ``Engine.plan``, ``TooLarge``, or ``NotAllowed``."""
        return self.engine.open(self._plan(spec, costs))

    def open_recent(self, key: bytes) -> VirtualFile | None:
        """Return the file of a query, or of another key, if its plan is cached, or None."""
        plan = self.recent.get(key)
        return None if plan is None else self.engine.open(plan)

    def open_query(self, query: bytes, items: list[tuple[str, str]], costs: Costs | None = None) -> VirtualFile:
        """Return the file of a query, and cache its plan; ``items`` are its fields, in order. Raises as ``open``."""
        return self.open_spec(query, lambda: read_query(items, max_manifest=self.settings.max_request_bytes), costs)

    def open_spec(self, key: bytes, read: Callable[[], Spec], costs: Costs | None = None) -> VirtualFile:
        """Return the file of a spec, and cache its plan under a key. Raises the errors of ``read``, and as ``open``."""
        plan = self.recent.get(key)
        if plan is None:
            plan = self._plan(read(), costs)
            self.recent.put(key, plan)
        return self.engine.open(plan)

    def describe(self, spec: Spec, costs: Costs | None = None) -> PlanAnswer:
        """Describe a spec's file, even if it is too large for this deployment or the client; raise all other errors.

        Raises ``TooLarge`` for more tensors than allowed, and ``NotAllowed``.
        """
        if costs is not None:
            costs.check_spec(spec)
        plan, refusal = self._held(self.engine.plan(spec)), None
        try:
            check_size(plan.data_nbytes, self.settings.max_bytes)
            self.resources.budget.check(self.engine.footprint(plan))
            if costs is not None:
                costs.check_plan(plan)
                check_seconds(costs, self.engine.open(plan), 0, plan.nbytes)
        except TooLarge as error:
            refusal = str(error)
        return PlanAnswer.of(spec, self.engine.describe(spec, plan), refusal)

    def signer(self, seconds: str, client: Client | None) -> Callable[[PlanAnswer], PlanAnswer]:
        """Return the function that signs the address of an answer for a time; raise ``InvalidSpec``."""
        key = self.gate.tokens.signing_key if self.gate else None
        if self.gate is None or key is None or client is None:
            raise InvalidSpec(
                "sign_for", got=seconds, expected="absent: this server has no signing_key (docs/access.md)"
            )
        if not (seconds.isascii() and seconds.isdecimal() and 0 < int(seconds[:9]) <= LONGEST):
            raise InvalidSpec("sign_for", got=seconds, expected=f"a number of seconds from 1 to {LONGEST}")
        expires, name = int(self.gate.usage.clock()) + int(seconds), client.name

        def sign(answer: PlanAnswer) -> PlanAnswer:
            return answer if answer.url is None else replace(answer, url=signed(answer.url, name, key, expires))

        return sign

    def readiness(self) -> Ready | NotReady:
        """Return whether this server is ready. This queries the device, which may take a moment."""
        trouble = self.engine.device.trouble()
        reason = f"the device is lost: {trouble}" if trouble else self.failure or self.resources.stuck()
        if reason is None and self.saturation is not None:
            reason = self.saturation.reason()
        if not self.started or self.draining:
            reason = "starting or stopping"
        device = str(self.engine.device)
        generators = {generator.name: generator.identity for generator in self.engine.generators()}
        if reason:
            return NotReady(reason=reason, version=__version__, device=device, generators=generators)
        return Ready(version=__version__, device=device, generators=generators)

    def shutdown(self) -> None:
        """Start no more work."""
        self.lanes.shutdown()
        self.health.shutdown(wait=False, cancel_futures=True)
        gc.unfreeze()
        gc.set_threshold(_USUAL)

    def _plan(self, spec: Spec, costs: Costs | None = None) -> Plan:
        if costs is not None:
            costs.check_spec(spec)
        return self._held(self.engine.plan(spec, max_bytes=self.settings.max_bytes))

    def _held(self, plan: Plan) -> Plan:
        """Return a plan and count its memory for its lifetime; raise ``Busy`` if there is not enough."""
        if (nbytes := plan_nbytes(plan)) > _COUNTED:
            self.resources.budget.hold(plan, nbytes)
        return plan


def service_of(request: Request) -> Service:
    """Return the service of a request's application."""
    service: Service = request.app.state.service
    return service
