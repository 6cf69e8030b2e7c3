"""The routes: parse, plan, respond."""

from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from weightwell_engine import catalogue
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.nonlinearities import NONLINEARITIES, calculate_gain, nonlinearity
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import check_size
from weightwell_engine.quadrature import activation_gain, activation_gains
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service import __version__, openapi
from weightwell_service.file_response import Workshop, respond
from weightwell_service.links import address
from weightwell_service.queries import GainQuery, read_gain_query, read_query
from weightwell_service.settings import Settings

T = TypeVar("T")

# Bytes of a body that is read in turn: as reading is Python, several at once would end no sooner, and take more memory.
_LONG = 2**16


@dataclass
class Service:
    """What the routes work with, one for each application; the ``reader`` reads long bodies, one by one."""

    settings: Settings
    engine: Engine
    workshop: Workshop
    reader: Executor
    ready: bool = False

    def open(self, spec: Spec) -> VirtualFile:
        """Return the file of a spec; raise what is wrong with it, or ``TooLarge``."""
        return self.engine.open(self.engine.plan(spec, max_bytes=self.settings.max_bytes))

    def outline(self, spec: Spec) -> dict[str, Any]:
        """Describe a spec's file, even one that is too large for this deployment; raise what else is wrong."""
        plan = self.engine.plan(spec)
        refusal = None
        try:
            check_size(plan.data_nbytes, self.settings.max_bytes)
            self.workshop.memory.admit(self.engine.footprint(plan))
        except TooLarge as error:
            refusal = str(error)
        return {**address(spec), "refusal": refusal, **self.engine.describe(spec, plan)}

    def unreadiness(self) -> str | None:
        """Return why no requests should be sent here, or None if they should."""
        if not self.ready:
            return "starting or stopping"
        trouble = self.engine.device.trouble()
        return trouble and f"the device is lost: {trouble}"


router = APIRouter()


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def hello(request: Request) -> PlainTextResponse:
    """Say what this is to somebody who has only its address."""
    return PlainTextResponse(openapi.hello(str(request.base_url).rstrip("/")))


@router.head("/init", **openapi.INIT_HEAD)
@router.get("/init", **openapi.INIT_GET)
async def init(request: Request) -> Response:
    """Draw what the query describes, one tensor or a manifest of many, as a safetensors file."""
    return _answer(request, await _made_of_spec(request, _service(request).open))


@router.post("/init", **openapi.INIT_POST)
async def init_from_body(request: Request) -> Response:
    """Draw what a JSON body describes, one tensor or many, as a safetensors file."""
    return _answer(request, await _made_of_spec(request, _service(request).open))


@router.head("/plan", include_in_schema=False)
@router.get("/plan", **openapi.PLAN_GET)
async def plan(request: Request) -> Response:
    """Tell what the file holds that ``/init`` draws for the same query."""
    service = _service(request)
    return await _made_of_spec(request, lambda spec: JSONResponse(service.outline(spec)))


@router.post("/plan", **openapi.PLAN_POST)
async def plan_from_body(request: Request) -> Response:
    """Tell what the file holds that ``/init`` draws for the same body."""
    service = _service(request)
    return await _made_of_spec(request, lambda spec: JSONResponse(service.outline(spec)))


@router.head("/gain", include_in_schema=False)
@router.get("/gain", **openapi.GAIN)
async def gain(request: Request) -> JSONResponse:
    """Return the gain of a nonlinearity, or the table of all."""
    query = read_gain_query(request.query_params.multi_items())
    answer = _measured(query) if query.source == "quadrature" else _recommended(query)
    return JSONResponse({"source": query.source, **answer})


def _recommended(query: GainQuery) -> dict[str, Any]:
    if query.nonlinearity is None:
        return {"gains": {name: asdict(row) for name, row in NONLINEARITIES.items()}}
    try:
        row = nonlinearity(query.nonlinearity)
    except InvalidSpec as error:
        expected = f"{error.expected}; or source=quadrature, which has other activation functions, too"
        raise InvalidSpec(error.field, got=error.got, expected=expected, detail=error.detail) from None
    # As torch does, the parameter of a nonlinearity that has none is passed over; the answer says that it was.
    param = None if row.param is None else row.default if query.param is None else query.param
    ignored = {} if row.param or query.param is None else {"ignored": {"param": query.param}}
    value = calculate_gain(row.name, param)
    return {
        "nonlinearity": row.name,
        "param": param,
        "gain": value,
        "formula": row.formula,
        "reference": row.reference,
        **ignored,
    }


def _measured(query: GainQuery) -> dict[str, Any]:
    if query.nonlinearity is None:
        return {"gains": {name: asdict(gain) for name, gain in activation_gains().items()}}
    return asdict(activation_gain(query.nonlinearity, param=query.param))


@router.head("/schemes", include_in_schema=False)
@router.get("/schemes", **openapi.CATALOGUE)
async def schemes(request: Request) -> JSONResponse:
    """Return the catalogue: every scheme, dtype and generator."""
    return JSONResponse(catalogue.catalogue(_service(request).engine.generators()))


@router.head("/presets", include_in_schema=False)
@router.get("/presets", **openapi.PRESETS)
async def presets() -> JSONResponse:
    """Return every preset."""
    return JSONResponse(catalogue.presets())


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", **openapi.LIVE)
async def live() -> JSONResponse:
    """Say that the process runs."""
    return JSONResponse({"status": "live"})


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", **openapi.READY)
async def ready(request: Request) -> JSONResponse:
    """Say whether requests should be sent here, and what would serve them."""
    service = _service(request)
    reason = await run_in_threadpool(service.unreadiness)
    body = {
        "status": "not ready" if reason else "ready",
        **({"reason": reason} if reason else {}),
        "version": __version__,
        "device": str(service.engine.device),
        "generators": {generator.name: generator.identity for generator in service.engine.generators()},
    }
    return JSONResponse(body, 503 if reason else 200, {"cache-control": "no-store"})


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _answer(request: Request, file: VirtualFile) -> Response:
    return respond(request.method, request.headers, file, _service(request).workshop)


async def _made_of_spec(request: Request, make: Callable[[Spec], T]) -> T:
    """Return what is made of the spec that a request's query or body means.

    A manifest may hold many thousands of tensors; reading it must not hold up everybody else.
    """
    limit = _service(request).settings.max_request_bytes
    if request.method == "POST":
        body = await _body(request, limit)
        if len(body) > _LONG:
            return await get_running_loop().run_in_executor(_service(request).reader, lambda: make(read_document(body)))
        return await run_in_threadpool(lambda: make(read_document(body)))
    query = request.query_params.multi_items()
    if "manifest" in request.query_params:
        return await run_in_threadpool(lambda: make(read_query(query, max_manifest=limit)))
    return make(read_query(query))


async def _body(request: Request, limit: int) -> bytes:
    """Read a request's body, and no more of it than is allowed."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise TooLarge(f"the body has more than the {limit} bytes that this server reads; split the manifest")
    return bytes(body)


def methods() -> dict[str, set[str]]:
    """Return the methods of every path: a route knows no method but its own."""
    found: dict[str, set[str]] = {}
    for route in router.routes:
        if isinstance(route, Route):
            found.setdefault(route.path, set()).update(route.methods or ())
    return found
