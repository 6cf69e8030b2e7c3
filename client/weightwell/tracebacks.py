"""Tracebacks: errors of the public methods without the frames of this package.

The useful line of a traceback is the caller's; the internal functions of this package are noise. The logger
``weightwell`` records the whole traceback at level DEBUG.
"""

import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from weightwell.exceptions import WeightwellError

C = TypeVar("C", bound=type)

logger = logging.getLogger("weightwell")

_PACKAGE = __name__.partition(".")[0]


def short_tracebacks(cls: C) -> C:
    """Shorten the tracebacks of a class's public methods: they end in the method, and show no cause.

    This applies to ``WeightwellError``, and to TypeError and ValueError that this package raises for an argument.
    Errors from other code, such as a callback of the caller, keep every frame. The cause stays in ``__context__``.
    """
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, _awaited(method) if inspect.iscoroutinefunction(method) else _called(method))
    return cls


def _called(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except (WeightwellError, TypeError, ValueError) as error:
            if not _is_ours(error):
                raise
            raise _shortened(error) from None

    return call


def _awaited(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs)
        except (WeightwellError, TypeError, ValueError) as error:
            if not _is_ours(error):
                raise
            raise _shortened(error) from None

    return call


def _is_ours(error: Exception) -> bool:
    """Whether this package raised an error, or a call with wrong arguments caused it."""
    if isinstance(error, WeightwellError):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


def _shortened(error: Exception) -> Exception:
    """Return an error whose traceback ends in the public method."""
    logger.debug("the whole traceback of %s", type(error).__name__, exc_info=error)
    entry = error.__traceback__ and error.__traceback__.tb_next
    if entry is not None:
        entry.tb_next = None
    return error.with_traceback(entry)
