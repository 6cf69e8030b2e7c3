"""Answers: what a server would answer to a request, made by the engine in this process."""

import json
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from weightwell.in_process.engines import Engines
from weightwell.request import Request
from weightwell_engine.catalogue import catalogue, preset_catalogue
from weightwell_engine.description import FileDescription
from weightwell_engine.engine import Engine
from weightwell_engine.gains import gains
from weightwell_engine.parsing import read_document, read_fields, read_gain
from weightwell_engine.spec import Spec

_NO_ADDRESS = "the file has no address, because this client draws in its own process; the /plan of a server gives one"


@dataclass(frozen=True, kw_only=True)
class _Plan(FileDescription):
    """The answer of ``/plan``: the description of a file without an address, which nobody refuses."""

    url: None = None
    url_note: str = _NO_ADDRESS
    refusal: None = None


def document(request: Request, engines: Engines) -> bytes:
    """Return the JSON document that answers a request; raise the engine's errors."""
    answer = _ANSWERS[request.path](request, engines.of())
    kind: Any = type(answer)
    return _adapter(kind).dump_json(answer)


def spec_of(request: Request) -> Spec:
    """Return the spec of the file that answers a request; raise the engine's errors."""
    if request.is_manifest:
        # A document of many tensors comes from anywhere. JSON makes it what a server would read.
        text = json.dumps(request.document, ensure_ascii=False, allow_nan=False, default=_refuse)
        return read_document(text.encode())
    return read_fields(
        {name: list(each) if isinstance(each, tuple) else each for name, each in request.document.items()}
    )


def _refuse(value: object) -> Any:
    raise TypeError(f"{value!r:.80} is not JSON")


def _gain(request: Request, _: Engine) -> object:
    query = read_gain(request.document)
    return gains(query.nonlinearity, query.param, query.source, query.bias_variance)


def _plan(request: Request, engine: Engine) -> object:
    spec = spec_of(request)
    described = engine.describe(spec, engine.plan(spec))
    return _Plan(**{each.name: getattr(described, each.name) for each in fields(described)})


def _schemes(_: Request, engine: Engine) -> object:
    return catalogue(engine.generators())


def _presets(_: Request, __: Engine) -> object:
    return preset_catalogue()


_ANSWERS = {"gain": _gain, "plan": _plan, "schemes": _schemes, "presets": _presets}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
