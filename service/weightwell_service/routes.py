"""The routes: parse, plan, respond."""

from asyncio import get_running_loop
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from weightwell_engine.catalogue import Catalogue, PresetCatalogue, catalogue, preset_catalogue
from weightwell_engine.exceptions import TooLarge
from weightwell_engine.gains import (
    MeasuredGain,
    MeasuredGains,
    RecommendedGain,
    RecommendedGainIgnoring,
    RecommendedGains,
    gains,
)
from weightwell_engine.inspection import Inspection
from weightwell_engine.parsing import read_document, read_signal_document
from weightwell_engine.signal.answer import Signal
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service import openapi
from weightwell_service.access.clients import known_client
from weightwell_service.answers import Live, NotReady, PlanAnswer, Ready, json_answer, json_bytes
from weightwell_service.exceptions import UnsupportedEncoding
from weightwell_service.file_response import respond
from weightwell_service.guide import respond_guide
from weightwell_service.inspections import inspect
from weightwell_service.page import respond_file, respond_page, wants_html
from weightwell_service.queries import read_gain_query, read_query, read_signal_query, split_query
from weightwell_service.service import Service, service_of

S = TypeVar("S")
T = TypeVar("T")

# The most bytes of a request body that is parsed on the event loop, if it describes one tensor.
_SHORT = 2**12

# The most bytes of a query to ``/gain`` whose answer is kept. Each of its few fields is short.
_LONGEST_RECENT = 256

# The approximate compression ratio of a manifest in a URL.
_PACKED = 16

# The paths of the health checks.
HEALTH = {"/health", "/healthz", "/health/live", "/health/ready"}

# The field of ``/plan`` that asks for a signed address: the seconds for which it opens the file.
SIGN_FOR = "sign_for"

_GREETING = """\
Weightwell generates initialized weights and serves them as safetensors files.

  curl -fsS '{url}/init?shape=512,784&scheme=kaiming_normal&seed=42' -o weight.safetensors
  curl -fsS '{url}/gain?nonlinearity=leaky_relu&param=0.2'
  curl -fsS '{url}/plan?shape=512,784&scheme=kaiming_normal&seed=42'
  curl -fsS '{url}/signal?depth=50&activation=tanh&scheme=xavier_normal'
  curl -fsS '{url}/schemes'
  curl -fsS '{url}/presets'

Everything else: {url}/docs, and {url} in a browser
"""

Gain = RecommendedGain | RecommendedGainIgnoring | MeasuredGain | RecommendedGains | MeasuredGains


class DirectRoute(APIRoute):
    """A route that FastAPI documents but does not call. Its function takes a request and returns a response.

    FastAPI's call resolves dependencies and validates answers, which takes longer than a small answer. Here are no
    dependencies, and every function parses its query and writes its answer with the documented models.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any):
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


router = APIRouter(route_class=DirectRoute)


# Gains -------------------------------------------------------------------------------------------------------------


@router.get("/gain", response_model=Gain, **openapi.GAIN)
async def gain(request: Request) -> Response:
    """Return the gain of a nonlinearity, or the table of all."""
    query = request.scope["query_string"]
    answer = _recent_gain if len(query) <= _LONGEST_RECENT else _gain
    return Response(answer(query), media_type="application/json")


def _gain(query: bytes) -> bytes:
    """Return the answer to a query, in JSON."""
    asked = read_gain_query(split_query(query))
    return json_bytes(gains(asked.nonlinearity, asked.param, asked.source, asked.bias_variance))


_recent_gain = lru_cache(1024)(_gain)


# Signals -----------------------------------------------------------------------------------------------------------


@router.get("/signal", response_model=Signal, **openapi.SIGNAL_GET)
async def signal(request: Request) -> Response:
    """Send a signal and its gradient through a stack of equal layers, and compare it with theory."""
    stack = read_signal_query(split_query(request.scope["query_string"]))
    service = service_of(request)
    return await service.signals.respond(request, stack, service.costs_of(request))


@router.post("/signal", response_model=Signal, **openapi.SIGNAL_POST)
async def signal_from_body(request: Request) -> Response:
    """Send a signal and its gradient through the layers of a JSON body, and compare it with theory."""
    service = service_of(request)
    stack = await _from_body(request, service, lambda stack: stack, read_signal_document)
    return await service.signals.respond(request, stack, service.costs_of(request))


# Files ---------------------------------------------------------------------------------------------------------------


@router.get("/init", **openapi.INIT_GET)
async def init(request: Request) -> Response:
    """Draw one tensor, or a manifest of many, as a safetensors file."""
    service = service_of(request)
    query, costs = request.scope["query_string"], service.costs_of(request)
    file = service.open_recent(query)
    if file is None:
        items = split_query(query)
        if _has_manifest(items):
            # While this request waited in the queue, another one may have planned the same file.
            file = await service.lanes.of(_PACKED * len(query)).run(
                lambda: service.open_recent(query) or service.open_query(query, items, costs), request.is_disconnected
            )
        else:
            file = service.open_query(query, items, costs)
    return respond(request.method, request.headers, file, service.resources, costs=costs)


def _has_manifest(items: Iterable[tuple[str, str]]) -> bool:
    return any(field == "manifest" for field, _ in items)


@router.post("/init", **openapi.INIT_POST)
async def init_from_body(request: Request) -> Response:
    """Draw the tensor or tensors of a JSON body as a safetensors file."""
    service = service_of(request)
    costs = service.costs_of(request)
    file = await _from_body(request, service, lambda spec: service.open(spec, costs), read_document)
    return respond(request.method, request.headers, file, service.resources, costs=costs)


@router.get("/plan", response_model=PlanAnswer, **openapi.PLAN_GET)
async def plan(request: Request) -> Response:
    """Describe the file that ``/init`` draws for the same query, without generating it."""
    service = service_of(request)
    query, limit = request.scope["query_string"], service.settings.max_request_bytes
    items, costs = split_query(query), service.costs_of(request)
    sign = _signer(request, items)

    def describe() -> Response:
        return json_answer(sign(service.describe(read_query(items, max_manifest=limit), costs)))

    if _has_manifest(items):
        return await service.lanes.of(_PACKED * len(query)).run(describe, request.is_disconnected)
    return await run_in_threadpool(describe)


@router.post("/plan", response_model=PlanAnswer, **openapi.PLAN_POST)
async def plan_from_body(request: Request) -> Response:
    """Describe the file that ``/init`` draws for the same body, without generating it."""
    service = service_of(request)
    sign, costs = _signer(request, split_query(request.scope["query_string"])), service.costs_of(request)

    def describe(spec: Spec) -> Response:
        return json_answer(sign(service.describe(spec, costs)))

    return await _from_body(request, service, describe, read_document)


def _signer(request: Request, items: list[tuple[str, str]]) -> Callable[[PlanAnswer], PlanAnswer]:
    """Remove ``sign_for`` from a query, and return the function that signs the address in an answer, if it is asked."""
    asked = [value for field, value in items if field == SIGN_FOR]
    if not asked:
        return lambda answer: answer
    items[:] = [item for item in items if item[0] != SIGN_FOR]
    return service_of(request).signer(asked[-1], known_client(request.scope))


@router.get("/inspect", response_model=Inspection, **openapi.INSPECT_GET)
async def inspection(request: Request) -> Response:
    """Draw the tensor of a query as ``/init`` does, and return statistics of its elements, next to those of its law."""
    service = service_of(request)
    query, limit = request.scope["query_string"], service.settings.max_request_bytes
    items, costs = split_query(query), service.costs_of(request)

    def opened() -> tuple[Spec, VirtualFile]:
        spec = read_query(items, max_manifest=limit)
        return spec, service.open(spec, costs)

    if _has_manifest(items):
        file = await service.lanes.of(_PACKED * len(query)).run(opened, request.is_disconnected)
    else:
        file = opened()
    return json_answer(await inspect(service, request, *file))


@router.post("/inspect", response_model=Inspection, **openapi.INSPECT_POST)
async def inspection_of_body(request: Request) -> Response:
    """Do as GET for the tensor of a JSON body."""
    service = service_of(request)
    costs = service.costs_of(request)
    file = await _from_body(request, service, lambda spec: (spec, service.open(spec, costs)), read_document)
    return json_answer(await inspect(service, request, *file))


async def _from_body(request: Request, service: Service, make: Callable[[S], T], read: Callable[[bytes], S]) -> T:
    """Parse a body and return the result of a function of it. A long body does not delay other requests."""
    with service.resources.budget.body() as count:
        body = await _body(request, service.settings.max_request_bytes, count)
        if len(body) > _SHORT or b"tensors" in body:
            return await service.lanes.of(len(body)).run(lambda: make(read(body)), request.is_disconnected)
        return make(read(body))


async def _body(request: Request, limit: int, count: Callable[[int], None]) -> bytes:
    """Read a request's body up to a limit; raise ``TooLarge``, ``UnsupportedEncoding`` or an error of ``count``."""
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise UnsupportedEncoding(encoding)
    body = bytearray()
    async for part in request.stream():
        body += part
        count(len(part))
        if len(body) > limit:
            raise TooLarge(
                f"the body has more than {limit} bytes, which is the limit of this server "
                "(WEIGHTWELL_MAX_REQUEST_BYTES); split the manifest"
            )
    return bytes(body)


# Tables --------------------------------------------------------------------------------------------------------------


@router.get("/schemes", response_model=Catalogue, **openapi.CATALOGUE)
async def schemes(request: Request) -> Response:
    """Return the catalogue: every scheme, dtype and generator."""
    return json_answer(catalogue(service_of(request).engine.generators()))


@router.get("/presets", response_model=PresetCatalogue, **openapi.PRESETS)
async def presets(_: Request) -> Response:
    """Return every preset."""
    return json_answer(preset_catalogue())


# The page -----------------------------------------------------------------------------------------------------------


@router.get("/", include_in_schema=False)
async def greeting(request: Request) -> Response:
    """Return the page to a browser, and else a short introduction and a few commands with this server's address."""
    if wants_html(", ".join(request.headers.getlist("accept"))):
        return respond_page(request.method, request.headers)
    text = _GREETING.format(url=str(request.base_url).rstrip("/"))
    return PlainTextResponse(text, headers={"vary": "accept"})


@router.get("/page/{name}", include_in_schema=False)
async def page_file(request: Request) -> Response:
    """Return a file of the page."""
    return respond_file(request.method, request.headers, request.path_params["name"]) or _absent()


@router.get("/guide/{name}", include_in_schema=False)
@router.get("/guide/", include_in_schema=False)
async def guide(request: Request) -> Response:
    """Return a page of the documentation."""
    return respond_guide(request.method, request.headers, request.path_params.get("name", "")) or _absent()


@router.get("/guide", include_in_schema=False)
async def guide_index(_: Request) -> Response:
    """Send a browser to the index, so that its relative links are right."""
    return Response(status_code=308, headers={"location": "guide/"})


def _absent() -> Response:
    raise HTTPException(404)


# Health --------------------------------------------------------------------------------------------------------------


@router.get("/health/live", response_model=Live, **openapi.LIVE)
async def live(_: Request) -> Response:
    """Report that the process runs."""
    return json_answer(Live())


@router.get("/healthz", include_in_schema=False)
@router.get("/health", include_in_schema=False)
@router.get("/health/ready", response_model=Ready, responses={503: {"model": NotReady}}, **openapi.READY)
async def ready(request: Request) -> Response:
    """Report whether this server accepts requests, and its generators."""
    service = service_of(request)
    answer = await get_running_loop().run_in_executor(service.health, service.readiness)
    return json_answer(answer, 503 if isinstance(answer, NotReady) else 200, {"cache-control": "no-store"})


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Return the metrics of this process, for Prometheus."""
    text, media_type = service_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, headers={"cache-control": "no-store", "content-type": media_type})


def _add_heads() -> None:
    """Add a HEAD route for every GET route: FastAPI adds none, and would document each method.

    They come last, because routes are tried in order and HEAD requests are rare.
    """
    for route in [route for route in router.routes if isinstance(route, APIRoute) and "GET" in (route.methods or ())]:
        documented = openapi.INIT_HEAD if route.path == "/init" else {"include_in_schema": False}
        router.add_api_route(route.path, route.endpoint, methods=["HEAD"], response_model=None, **documented)


_add_heads()


def methods() -> dict[str, set[str]]:
    """Return the methods of every path. A route itself knows only its own method."""
    found: dict[str, set[str]] = {}
    for route in router.routes:
        if isinstance(route, Route):
            found.setdefault(route.path, set()).update(route.methods or ())
    return found
