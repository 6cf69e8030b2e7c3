"""The routes: parse, plan, respond."""

from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from weightwell_service import __version__, catalogue, openapi
from weightwell_service.exceptions import TooLarge
from weightwell_service.generators import Generator
from weightwell_service.nonlinearities import NONLINEARITIES, calculate_gain, nonlinearity
from weightwell_service.plan import Plan, make_plan
from weightwell_service.quadrature import activation_gain, activation_gains
from weightwell_service.settings import Settings
from weightwell_service.spec import Spec
from weightwell_service.virtual_file import Workshop, respond
from weightwell_service.wire import GainQuery, read_body, read_gain_query, read_query


@dataclass
class Service:
    """What the routes work with, one for each application."""

    settings: Settings
    generators: dict[str, Generator]
    workshop: Workshop
    ready: bool = False

    def plan(self, spec: Spec) -> tuple[Plan, Generator]:
        """Settle a spec with the generator that it names; raises whatever is wrong with it."""
        generator = self.generators[spec.generator]
        plan = make_plan(spec, generator.identity, portable=generator.portable, max_bytes=self.settings.max_bytes)
        generator.check(plan)
        return plan, generator


router = APIRouter()


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def hello(request: Request) -> PlainTextResponse:
    """Say what this is to somebody who has only its address."""
    return PlainTextResponse(openapi.hello(str(request.base_url).rstrip("/")))


@router.head("/init", **openapi.INIT_HEAD)
@router.get("/init", **openapi.INIT_GET)
async def init(request: Request) -> Response:
    """Draw one tensor, described by the query, as a safetensors file."""
    return _answer(request, *_service(request).plan(read_query(request.query_params.multi_items())))


@router.post("/init", **openapi.INIT_POST)
async def init_from_body(request: Request) -> Response:
    """Draw one tensor or many, described by a JSON body, as a safetensors file."""
    service = _service(request)
    body = await _body(request, service.settings.max_request_bytes)
    # A manifest may hold many thousands of tensors; reading it must not hold up everybody else.
    planned = await run_in_threadpool(lambda: service.plan(read_body(body)))
    return _answer(request, *planned)


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
    row = nonlinearity(query.nonlinearity)
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
    return JSONResponse(catalogue.catalogue(_service(request).generators))


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
    body = {
        "status": "ready" if service.ready else "starting or stopping",
        "version": __version__,
        "device": service.settings.device,
        "generators": {generator.name: generator.identity for generator in service.generators.values()},
    }
    return JSONResponse(body, 200 if service.ready else 503, {"cache-control": "no-store"})


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _answer(request: Request, plan: Plan, generator: Generator) -> Response:
    return respond(request.method, request.headers, plan, generator, _service(request).workshop)


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
