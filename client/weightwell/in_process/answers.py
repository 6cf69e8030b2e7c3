"""Answers: the JSON documents of a server, made by the engine in this process."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

from pydantic import TypeAdapter

from weightwell.exceptions import MissingFramework
from weightwell.in_process.engines import Engines
from weightwell.in_process.specs import json_of, spec_of
from weightwell.request import Request
from weightwell_engine.catalogue import catalogue, preset_catalogue
from weightwell_engine.description import FileDescription
from weightwell_engine.engine import Engine
from weightwell_engine.gains import gains
from weightwell_engine.inspection import Inspection, check
from weightwell_engine.parsing import read_gain, read_signal_document
from weightwell_engine.signal.answer import Signal

T = TypeVar("T")

_NO_ADDRESS = "the file has no address, because this client draws in its own process; the /plan of a server gives one"


@dataclass(frozen=True, kw_only=True)
class _Plan(FileDescription):
    """The answer of ``/plan``: the description of a file without an address, which nobody refuses."""

    url: None = None
    url_note: str = _NO_ADDRESS
    refusal: None = None


def document(request: Request, engines: Engines, go_on: Callable[[], None]) -> bytes:
    """Return the JSON document that answers a request; raise the engine's errors.

    ``go_on`` is called from time to time, and raises to end the work.
    """
    engine = engines.of()
    if (work := _WORK.get(request.path)) is not None:
        answer = work(request, engine, go_on)
    else:
        answer = _ANSWERS[request.path](request, engine)
    kind: Any = type(answer)
    return _adapter(kind).dump_json(answer)


def _gain(request: Request, _: Engine) -> object:
    query = read_gain(request.document)
    return gains(query.nonlinearity, query.param, query.source, query.bias_variance)


def _plan(request: Request, engine: Engine) -> object:
    spec = spec_of(request)
    described = engine.describe(spec, engine.plan(spec))
    return _Plan(**{each.name: getattr(described, each.name) for each in fields(described)})


def _inspect(request: Request, engine: Engine, go_on: Callable[[], None]) -> Inspection:
    spec = spec_of(request)
    with closing(engine.open(engine.plan(spec))) as file:
        check(file)
        return _result(engine.inspect(spec, file), go_on)


def _signal(request: Request, engine: Engine, go_on: Callable[[], None]) -> Signal:
    if find_spec("torch") is None:
        raise MissingFramework("signals are measured with torch, not installed here: pip install 'weightwell[torch]'")
    from weightwell_engine.signal.measurement import measure

    return _result(measure(read_signal_document(json_of(request)), engine), go_on)


def _result(steps: Generator[None, None, T], go_on: Callable[[], None]) -> T:
    """Take all steps, and call ``go_on`` before each; return the result."""
    with closing(steps):
        while True:
            go_on()
            try:
                next(steps)
            except StopIteration as end:
                answer: T = end.value
                return answer


def _schemes(_: Request, engine: Engine) -> object:
    return catalogue(engine.generators())


def _presets(_: Request, __: Engine) -> object:
    return preset_catalogue()


# Answers that take long, and those that do not.
_WORK: dict[str, Callable[[Request, Engine, Callable[[], None]], object]] = {"inspect": _inspect, "signal": _signal}
_ANSWERS = {"gain": _gain, "plan": _plan, "schemes": _schemes, "presets": _presets}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
