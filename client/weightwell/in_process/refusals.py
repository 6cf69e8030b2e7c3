"""Refusals: the engine's errors as the exceptions that a client raises for a server's answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from weightwell.exceptions import REFUSALS, ServerProblem
from weightwell.problems import FieldError, Problem
from weightwell_engine import exceptions as engine

# The status, the type and the title of a server's answer: ``weightwell_service.problems`` has the same table.
STATUS: dict[type[engine.WeightwellError], tuple[int, str, str]] = {
    engine.MalformedDocument: (400, "malformed-body", "The body cannot be read"),
    engine.InvalidSpec: (422, "invalid-spec", "Invalid spec"),
    engine.InvalidSpecs: (422, "invalid-spec", "Invalid spec"),
    engine.UnsupportedSpec: (422, "unsupported-spec", "Not supported by this generator"),
    engine.TooLarge: (413, "too-large", "Too large for this server"),
    engine.Busy: (503, "busy", "The server is busy"),
    engine.DeviceUnavailable: (503, "device-unavailable", "The device cannot be used"),
    engine.GeneratorUnsound: (500, "generator-unsound", "The generator gives wrong numbers on this machine"),
}


@contextmanager
def refusals() -> Iterator[None]:
    """Raise the client's exception for each error of the engine."""
    try:
        yield
    except engine.WeightwellError as error:
        raise refusal(error) from error


def refusal(error: engine.WeightwellError) -> ServerProblem:
    """Return the client's exception for an error of the engine."""
    status, kind, title = STATUS[type(error)]
    invalid = error.errors if isinstance(error, engine.InvalidSpec | engine.InvalidSpecs) else ()
    problem = Problem(
        status=status,
        type=f"urn:weightwell:problem:{kind}",
        title=title,
        detail=str(error),
        errors=tuple(FieldError(each.field, each.got, each.expected, each.detail, each.hint) for each in invalid),
        retry_after=float(error.retry_after) if isinstance(error, engine.Busy) else None,
    )
    return REFUSALS.get(status, ServerProblem)(problem)
