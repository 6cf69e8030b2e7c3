"""Records: the identifier of the current request, and the reason of its refusal."""

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

_FORM = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Record:
    """One request. ``reason``: the type of the problem in its answer; None if it was not refused.

    ``trace``: the identifier of its trace; None if it has none.
    """

    identifier: str
    reason: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended. ``status`` is 0 if it had no answer.

    ``reason``: the type of the problem that it got. ``sent``: bytes of the body. ``first``, ``seconds``: from its head
    to the head and to the end of its answer.
    """

    route: str
    method: str
    status: int
    reason: str | None
    sent: int
    first: float
    seconds: float


_current: ContextVar[Record | None] = ContextVar("request", default=None)


def begin(headers: Iterable[tuple[bytes, bytes]]) -> Record:
    """Make the record of a request the current one. Its identifier is that of ``X-Request-Id``, or a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    record = Record(given.decode() if _FORM.fullmatch(given) else secrets.token_hex(8))
    _current.set(record)
    return record


def current() -> Record | None:
    """Return the record of the request that this task answers; None outside of one."""
    return _current.get()
