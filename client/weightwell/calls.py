"""Calls: each verb of the clients as a request, a destination and a way to read the result. No I/O is done here."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

from weightwell.dtypes import BY_CODE
from weightwell.exceptions import UnexpectedResponse
from weightwell.files.comparison import Claim, Comparison, Verdict
from weightwell.frameworks import viewer
from weightwell.models.filling import Reset, filling_of
from weightwell.models.manifest import Manifest
from weightwell.models.plans import Plan
from weightwell.models.recipes import Rules
from weightwell.request import Request, asking, asking_for_manifest
from weightwell.safetensors import Entry
from weightwell.spec import FileSpec, ManifestSpec, TensorSpec
from weightwell.transfers.destinations import DataDestination, Destination, Document, InMemory, SafetensorsFile

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")


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


def save(spec: FileSpec, data: DataDestination) -> Call[None]:
    """Return the call for a file whose data, and head, go somewhere."""
    body = SafetensorsFile(spec.check, data)
    return Call(spec.request, body, lambda: None, spec.label, writes=True)


def check_target(path: object) -> None:
    """Raise TypeError for anything but a path or a binary file, as by the order of arguments that 0.1 had."""
    if isinstance(path, Manifest):
        raise TypeError("the path comes first: write save('model.safetensors', manifest)")
    if not (isinstance(path, str | os.PathLike) or hasattr(path, "write")):
        raise TypeError(
            f"expected a path or a binary file first, as in save('model.safetensors', ...), got {path!r:.80}"
        )


def verify(claim: Claim) -> Call[Verdict]:
    """Return the call that compares a file with what its metadata claims."""
    comparison = Comparison(claim)
    body = SafetensorsFile(comparison.check, comparison)
    request = asking_for_manifest("init", claim.document)
    return Call(request, body, comparison.verdict, f"{len(claim.entries)} tensors", writes=True)


def presets() -> Call[Any]:
    """Return the call for the presets."""
    return _document("presets", lambda answer: answer)


def init_state_dict(spec: ManifestSpec, framework: str | None, device: object) -> Call[dict[str, Any]]:
    """Return the call for the tensors of a manifest, by name; tied names have one tensor."""
    viewer(framework, spec.dtype, device)  # says what is not installed before anything is drawn
    views: dict[str, Callable[[memoryview], Any]] = {}

    def check(entries: Mapping[str, Entry]) -> int:
        size = spec.check(entries)
        views.update({name: _view(entry, framework, device) for name, entry in entries.items()})
        return size

    def result() -> dict[str, Any]:
        whole = memoryview(data.memory)
        tensors = {name: view(whole) for name, view in views.items()}
        return {name: tensors[spec.aliases.get(name, name)] for name in spec.names}

    data = InMemory()
    return Call(spec.request, SafetensorsFile(check, data), result, spec.label)


def init_module(
    module: M, rules: Rules | Manifest | None, *, device: object, reset_buffers: Reset | None, **said: Any
) -> Call[M]:
    """Return the call that fills a module; ``said`` is what ``Manifest.from_module`` takes beside the rules."""
    manifest = rules if isinstance(rules, Manifest) else Manifest.from_module(module, rules, **said)
    if manifest is rules and (twice := [key for key, value in said.items() if value]):
        raise ValueError(f"{twice[0]} is said by the manifest: change it there")
    spec, data = filling_of(module, ManifestSpec.of(manifest.document()), device=device, reset_buffers=reset_buffers)
    return Call(spec.request, SafetensorsFile(spec.check, data), data.commit, spec.label)


def plan(spec: TensorSpec | ManifestSpec, http: httpx.Client | httpx.AsyncClient) -> Call[Plan]:
    """Return the call for what would be drawn; ``http`` knows the address that its URL is relative to."""
    rules = spec.document.get("rules", ()) if isinstance(spec, ManifestSpec) else ()

    def read(answer: Any) -> Plan:
        url = answer["url"]
        return Plan.of(answer, rules, url and str(http.build_request("GET", url).url))

    return _asked(replace(spec.request, path="plan"), read)


def _view(entry: Entry, framework: str | None, device: object) -> Callable[[memoryview], Any]:
    """Return how a tensor is seen in the data of its file."""
    view = viewer(framework, BY_CODE[entry.dtype], device)
    return lambda data: view(data[entry.start : entry.stop], entry.shape)


def _gain(row: Any) -> float:
    """Return the gain in one row of the answer."""
    return float(row["gain"])


def _document(path: str, read: Callable[[Any], T], **fields: Any) -> Call[T]:
    """Return a call for the answer to some fields, which comes in JSON."""
    return _asked(asking(path, **fields), read)


def _asked(request: Request, read: Callable[[Any], T]) -> Call[T]:
    """Return a call that is answered in JSON."""
    document = Document()

    def result() -> T:
        answer = document.parsed()
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"/{request.path} answered in another form than expected: {answer!r:.200}"
            raise UnexpectedResponse(text) from error

    return Call(request, document, result)
