"""Calls: each verb of the clients as a request, a destination and a way to read the result. No I/O is done here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, TypeVar

from weightwell.destinations import Destination, Document, InFile, InMemory, SafetensorsFile
from weightwell.exceptions import UnexpectedResponse
from weightwell.frameworks import viewer
from weightwell.request import Request, asking
from weightwell.spec import TensorSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, where its answer goes, and ``result``, which returns what the caller gets once it is there.

    ``label`` names it on a progress bar; ``writes`` says that receiving it may wait for a disk.
    """

    request: Request
    destination: Destination
    result: Callable[[], T]
    label: str = ""
    writes: bool = False


def gain(nonlinearity: str, param: float | None, source: str | None) -> Call[float]:
    """Return the call for one gain."""
    return _document("gain", _gain, nonlinearity=nonlinearity, param=param, source=source)


def gains(source: str | None) -> Call[dict[str, float]]:
    """Return the call for the table of gains."""
    return _document("gain", lambda answer: {name: _gain(row) for name, row in answer["gains"].items()}, source=source)


def schemes() -> Call[Any]:
    """Return the call for the catalogue."""
    return _document("schemes", lambda answer: answer)


def init(spec: TensorSpec, framework: str | None, device: object) -> Call[Any]:
    """Return the call for a tensor."""
    data = InMemory()
    view = viewer(framework, spec.dtype, device)
    body = SafetensorsFile(spec.check, data)
    return Call(spec.request, body, lambda: view(data.memory, spec.extent), spec.label)


def save(spec: TensorSpec, file: BinaryIO) -> Call[None]:
    """Return the call for a tensor's file."""
    body = SafetensorsFile(spec.check, InFile(file))
    return Call(spec.request, body, lambda: None, spec.label, writes=True)


def _gain(row: Any) -> float:
    """Return the gain in one row of the answer."""
    return float(row["gain"])


def _document(path: str, read: Callable[[Any], T], **fields: Any) -> Call[T]:
    """Return a call that is answered in JSON."""
    document = Document()

    def result() -> T:
        answer = document.parsed()
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnexpectedResponse(f"/{path} answered in another form than expected: {answer!r:.200}") from error

    return Call(asking(path, **fields), document, result)
