"""The exceptions of the client.

WeightwellError
 +-- TransportError          no complete answer arrived; trying again later may help
 |    +-- ConnectionFailed   no server answers at the address
 |    +-- TimedOut           no byte arrived for ``timeout`` seconds, or the call took longer than ``deadline``
 |    +-- TruncatedBody      the connection broke in the middle of the body
 +-- ServerProblem           the server refused the request, and gave the reason (RFC 9457)
 |    +-- InvalidRequest     400, 422: a field has an invalid value
 |    +-- AccessDenied       401, 403: the credentials are missing or wrong, or do not allow this
 |    +-- NotFound           404, 405: there is no such resource at this address
 |    +-- TooLarge           413: the result is larger than the server allows
 |    +-- Busy               429, 503: the server cannot answer now
 +-- UnexpectedResponse      a Weightwell server does not answer like this
 |    +-- InvalidFile        the body is not the requested safetensors file
 |    +-- FileChanged        the file changed during every attempt of the transfer
 +-- MissingFramework        the package for the result is not installed

An invalid argument raises ``TypeError`` or ``ValueError`` before anything is sent.
"""

from weightwell.problems import FieldError, Problem


class WeightwellError(Exception):
    """Base class of the exceptions of this package."""


class TransportError(WeightwellError):
    """No complete answer arrived; trying again later may help. ``__context__`` is the cause."""


class ConnectionFailed(TransportError):
    """No server answers at the address."""


class TimedOut(TransportError):
    """No byte arrived for ``timeout`` seconds, or the call took longer than ``deadline``."""


class TruncatedBody(TransportError):
    """The connection broke after ``received`` of ``promised`` bytes."""

    def __init__(self, received: int, promised: int):
        super().__init__(received, promised)
        self.received = received
        self.promised = promised

    def __str__(self) -> str:
        return f"the connection broke after {self.received} of {self.promised} bytes"


class ServerProblem(WeightwellError):
    """The server refused the request. ``status``, ``type``, ``title``, ``detail`` and ``errors`` are from its answer.

    The message has the field, the value received, the values allowed and the hint of every error.
    ``retry_after`` is the wait in seconds that the server asked for, or None.
    """

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.problem = problem
        self.status: int = problem.status
        self.type: str = problem.type
        self.title: str = problem.title
        self.detail: str = problem.detail
        self.errors: tuple[FieldError, ...] = problem.errors
        self.retry_after: float | None = problem.retry_after

    def __str__(self) -> str:
        unsaid = [text for error in self.errors if (text := error.beyond(self.detail))]
        return "\n  ".join([f"{self.detail} (HTTP {self.status})", *unsaid])


class InvalidRequest(ServerProblem, ValueError):
    """A field has an invalid value; ``errors`` has the field, the value received and the values allowed."""


class AccessDenied(ServerProblem):
    """The credentials are missing or wrong, or do not allow this: see ``token``, ``auth`` and ``headers``."""


class NotFound(ServerProblem):
    """There is no such resource at this address: check that it is a Weightwell server of this version."""


class TooLarge(ServerProblem):
    """The result is larger than the server or the token allows: request slices, or ask for a higher limit."""


class Busy(ServerProblem):
    """The server cannot answer now, or the client has reached a limit; it has tried again for ``wait`` seconds.

    If ``retry_after`` is more than that, as for a limit of bytes a day, it has not tried again.
    """


# The exception for each status of a refusal; ``ServerProblem`` for others.
REFUSALS: dict[int, type[ServerProblem]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    405: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: Busy,
    503: Busy,
}


class UnexpectedResponse(WeightwellError):
    """A Weightwell server does not answer like this; look for a proxy, a cache or a login page."""


class InvalidFile(UnexpectedResponse):
    """The body is not the requested safetensors file; the message names the first field that differs."""


class FileChanged(UnexpectedResponse):
    """The file changed during every attempt of the transfer; servers of two versions may share the address."""


class MissingFramework(WeightwellError, ImportError):
    """The package for the result is not installed; the message names the pip extra for it."""
