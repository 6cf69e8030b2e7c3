"""What can go wrong between a program and its tensor.

WeightwellError
 +-- TransportError          the answer did not come, or not whole; trying again later may help
 |    +-- ConnectionFailed   nobody answers at the server's address
 |    +-- TimedOut           the server was silent for longer than the client waits
 |    +-- TruncatedBody      the connection broke in the middle of the body
 +-- ServerProblem           the server refused, and said why (RFC 9457)
 |    +-- InvalidRequest     400, 422: a field has a value that it cannot have
 |    +-- AccessDenied       401, 403: the server wants other credentials
 |    +-- NotFound           404, 405: there is no such resource at this address
 |    +-- TooLarge           413: the result is larger than the server draws
 |    +-- Busy               429, 503: not now
 +-- UnexpectedResponse      the answer is none that a Weightwell server gives
 |    +-- InvalidFile        it is not the safetensors file that was asked for
 |    +-- FileChanged        it became another file while it came, and did so every time
 +-- MissingFramework        the package that the result needs is not installed

An argument that is wrong before anything is sent raises ``TypeError`` or ``ValueError``, as everywhere in Python.
"""

from weightwell.problems import FieldError, Problem


class WeightwellError(Exception):
    """Base of everything that this package raises on purpose."""


class TransportError(WeightwellError):
    """The answer did not come, or not whole; the cause is chained, and trying again later may help."""


class ConnectionFailed(TransportError):
    """Nobody answers at the server's address."""


class TimedOut(TransportError):
    """The server was silent for longer than the client waits."""


class TruncatedBody(TransportError):
    """The connection broke after ``received`` of ``promised`` bytes."""

    def __init__(self, received: int, promised: int):
        super().__init__(received, promised)
        self.received = received
        self.promised = promised

    def __str__(self) -> str:
        return f"the connection broke after {self.received} of {self.promised} bytes"


class ServerProblem(WeightwellError):
    """The server refused, and said why: ``status``, ``type``, ``title``, ``detail`` and ``errors`` are its words.

    The message says of every error its field, what was got, what is expected, and the server's hint.
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
    """A field has a value that it cannot have; ``errors`` name each field, what was got and what is expected."""


class AccessDenied(ServerProblem):
    """The server wants other credentials: see ``auth`` and ``headers`` of the client."""


class NotFound(ServerProblem):
    """There is no such resource at this address; it may be no Weightwell server, or one of another version."""


class TooLarge(ServerProblem):
    """The result is larger than the server draws; ask for it in slices, or raise the server's limit."""


class Busy(ServerProblem):
    """The server could draw it, but not now, and the client has waited for as long as ``wait`` allows."""


class UnexpectedResponse(WeightwellError):
    """The answer is none that a Weightwell server gives; something else may be answering in its place."""


class InvalidFile(UnexpectedResponse):
    """The body is not the safetensors file that was asked for; the message names the first field that differs."""


class FileChanged(UnexpectedResponse):
    """The file became another one while it came, every time, as it does where servers of two versions take turns."""


class MissingFramework(WeightwellError, ImportError):
    """The package that the result needs is not installed; the message names the pip extra that brings it."""
