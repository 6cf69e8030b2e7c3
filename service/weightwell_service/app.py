"""The application: settings in, FastAPI out. Nothing is read from the environment and nothing is started at import."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.types import Scope

from weightwell_engine.engine import Engine
from weightwell_engine.generators.factory import find_device
from weightwell_service import __version__, hub, openapi, problems, s3
from weightwell_service.access.costs import Costs
from weightwell_service.access.guard import Addresses, Clients, Gate, Guard
from weightwell_service.access.tokens import Tokens
from weightwell_service.access.usage import Usage
from weightwell_service.budget import MemoryBudget
from weightwell_service.dispatch import Dispatch, Fixed
from weightwell_service.file_response import DrawingResources
from weightwell_service.gauges import load, state
from weightwell_service.observation.log import request_line
from weightwell_service.observation.requests import Observed
from weightwell_service.observation.traces import Traced, Traces, current_trace
from weightwell_service.page import is_static
from weightwell_service.repositories.library import library
from weightwell_service.repositories.shared_cache import SharedCache
from weightwell_service.repositories.twin import Twins
from weightwell_service.repositories.upstream import Upstream
from weightwell_service.routes import HEALTH, methods, router
from weightwell_service.saturation import Saturation
from weightwell_service.service import Service
from weightwell_service.settings import Settings

log = logging.getLogger(__name__)

# Seconds after which a thread gives the GIL to a waiting thread. Python's default, 5 ms, is as long as a small request.
_SWITCH_INTERVAL = 0.0005

# The header fields of an answer that a page of another origin may read; it may always read Content-Length and -Type.
_EXPOSED = [
    *("Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Retry-After", "Weightwell-Generator"),
    *("Weightwell-Range-Cost", "Weightwell-Unused-Rules"),
]

# FastAPI has telemetry of its own. With a global provider, it would send each span twice, with the signature.
_NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}

# The part of the memory budget in which files and headers of the upstream Hub are kept.
_KEPT = 16


def make_engine(settings: Settings) -> Engine:
    """Return the engine of a deployment; raise ``DeviceUnavailable`` if the configured device is not there."""
    off = "is switched off on this server (WEIGHTWELL_TORCH_GENERATOR=off)"
    without_torch = off if settings.torch_generator == "off" else None
    return Engine(find_device(settings.device), threads=settings.threads, without_torch=without_torch)


def _twins(settings: Settings, budget: MemoryBudget) -> Twins | None:
    """Return the twins of the upstream Hub of a deployment; None without an upstream."""
    if settings.upstream is None:
        return None
    token = settings.upstream_token.get_secret_value().strip() if settings.upstream_token else None
    return Twins(
        Upstream(settings.upstream, token=token, timeout=settings.upstream_timeout, budget=budget),
        SharedCache(settings.max_resident_bytes // _KEPT),
        max_file=settings.upstream_max_file_bytes,
        max_header=settings.upstream_max_header_bytes,
    )


def create_app(settings: Settings, engine: Engine | None = None, *, shared: Path | None = None) -> FastAPI:
    """Build the service for a deployment, with its own engine or a given one.

    ``shared`` is the folder of what several processes of one server share; None for a server of one process.

    Raises ``DeviceUnavailable`` if the configured device is not there, ``InvalidRepository`` for a repository that
    cannot be used, ``InvalidTokens`` for a file of tokens that cannot, and ``InvalidTraces`` if traces are wanted and
    cannot be sent.
    """
    costs = _costs(settings)
    gate = Gate(settings.tokens_file, _usage(shared), costs) if settings.tokens_file else None
    clients = gate or _addresses(settings, shared, costs)
    engine = engine or make_engine(settings)
    for_bodies = max(settings.max_total_request_bytes, settings.max_request_bytes)
    budget = MemoryBudget(settings.max_resident_bytes, for_bodies=for_bodies, patience=settings.queue_timeout)
    traces = Traces() if settings.traces else None
    resources = DrawingResources(budget, settings.threads, settings.drawing_timeout, settings.max_responses)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service: Service = app.state.service
        if traces is not None:
            traces.start()
        generators = engine.generators()
        await asyncio.get_running_loop().run_in_executor(service.health, next(generators).warm_up)
        service.health.submit(service.warm_up, generators)
        # Threads that draw many short runs hold the GIL most of the time, and the event loop needs it at every step.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        with reading_again(gate), draining(service, settings.drain_seconds):
            service.started = True
            yield
            service.started = False
        sys.setswitchinterval(interval)
        service.shutdown()
        if service.twins is not None:
            await service.twins.close()
        for lane in resources.lanes.values():
            lane.shutdown()
        if traces is not None:
            await asyncio.get_running_loop().run_in_executor(None, traces.stop)

    # The service serves the assets of /docs itself, because clusters often have no access to a CDN.
    app = FastAPIOffline(
        redoc_url=None,
        # To colour a long answer takes a browser seconds.
        swagger_ui_parameters={"defaultModelsExpandDepth": -1, "syntaxHighlight": False},
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
        title="Weightwell",
        version=__version__,
        summary="Initialized weight tensors. The same spec gives the same bytes on every machine.",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    repositories = library(settings.repositories, settings.max_shard_bytes)
    twins = _twins(settings, budget)
    app.state.service = Service(
        settings,
        engine,
        resources,
        repositories=repositories,
        twins=twins,
        gate=gate,
        costs=None if costs == Costs() else costs,
    )
    app.state.methods = methods()
    doors = [Dispatch(s3.owns, s3.ROUTES), Dispatch(hub.owns, hub.ROUTES)]
    app.router.routes[:0] = [Fixed(router.routes), *doors, *router.routes]
    problems.install(app)
    service: Service = app.state.service
    service.metrics.show(lambda: state(service))
    service.saturation = Saturation(settings.saturation, load(service), shared / "load" if shared else None)
    if clients is not None:
        app.add_middleware(Guard, clients=clients, is_open=_is_open(settings), refusal=_refusal)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=86400,
        )
    line, trace = request_line if settings.access_log else None, current_trace if traces else None
    app.add_middleware(Observed, measured=service.metrics, line=line, trace=trace)
    if traces is not None:
        app.add_middleware(Traced, traces=traces)
    app.openapi = openapi.document(app)  # type: ignore[method-assign]
    return app


def _usage(shared: Path | None) -> Usage:
    """Return the usage of clients: of this process, or of all that share a folder."""
    if shared is None:
        return Usage()
    from weightwell_service.access.shared_usage import SharedUsage  # not on Windows, which has no such locks

    return SharedUsage(shared / "usage")


def check(settings: Settings) -> None:
    """Raise the errors of ``create_app`` for the files that settings name, and make nothing."""
    if settings.tokens_file:
        Tokens.read(settings.tokens_file)
    library(settings.repositories, settings.max_shard_bytes)
    if settings.traces:
        Traces()


def _costs(settings: Settings) -> Costs:
    """Return the limits of each request, whoever sends it."""
    limits = {"max_tensors": settings.max_tensors, "max_cpu_seconds": settings.max_cpu_seconds}
    return Costs.of("this server allows", limits, prefix="WEIGHTWELL_")


def _addresses(settings: Settings, shared: Path | None, costs: Costs) -> Clients | None:
    """Return the clients of a server without tokens; None if addresses have no limits."""
    responses, nbytes = settings.max_responses_per_address, settings.bytes_per_day_per_address
    if responses is None and nbytes is None:
        return None
    return Addresses(_usage(shared), max_responses=responses, bytes_per_day=nbytes, costs=costs)


def _is_open(settings: Settings) -> Callable[[Scope], bool]:
    """Return whether a request is for everybody, without limits, as a function of its scope."""
    tokens = settings.tokens_file is not None
    paths = {
        *(HEALTH if settings.open_health or not tokens else ()),
        *(["/metrics"] if settings.open_metrics or not tokens else ()),
    }
    return lambda scope: scope["path"] in paths or (settings.open_page and is_static(scope))


def _refusal(scope: Scope, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    """Return the answer to a request without access, or beyond a limit, in the form of its door."""
    if scope["path"] == "/s3" or scope["path"].startswith("/s3/"):
        return s3.refusal(scope, status, detail, headers)
    return problems.refusal(status, detail, headers)


@contextmanager
def draining(service: Service, seconds: float) -> Iterator[None]:
    """Between SIGTERM and the end of the server, answer as before for some seconds, but be not ready."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, stop)  # which a second one does at once
        service.draining = True
        log.info("draining for %g s: /health/ready is 503, and everything else is answered", seconds)
        if callable(stop):
            loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, frame)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


@contextmanager
def reading_again(gate: Gate | None) -> Iterator[None]:
    """Read the tokens again at each SIGHUP; a server without tokens leaves the signal alone."""
    if gate is None or not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, gate.read_again)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
