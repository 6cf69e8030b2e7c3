"""Calls: each method of the clients as a request, a destination and a function for the result, without I/O."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, SupportsFloat, TypeVar

from weightwell.answers import OneOf, mismatches, raise_first, spec_of
from weightwell.cautions import caution_unused
from weightwell.dtypes import BY_CODE
from weightwell.exceptions import InvalidFile, UnexpectedResponse
from weightwell.files.comparison import Claim, Comparison, Verdict
from weightwell.files.output import Output
from weightwell.frameworks import on_host, viewer
from weightwell.gains import Gain
from weightwell.memory import Memory
from weightwell.models.checkpoint import Checkpoint, Config
from weightwell.models.filling import Reset, filling_of
from weightwell.models.manifest import Manifest
from weightwell.models.modules import is_layer
from weightwell.models.noise import Addition
from weightwell.models.plans import Plan, fields_of
from weightwell.models.recipes import Rules
from weightwell.models.tensors import InTargets, InTensors, destination_of, is_tensor
from weightwell.propagation.stacks import ACTIVATIONS, Question, Signal
from weightwell.request import Request, asking, asking_for_manifest
from weightwell.safetensors import Header
from weightwell.slices import SliceLike, text_of
from weightwell.spec import DEFAULT_DTYPE, FileSpec, ManifestSpec, TensorSpec, integer_of
from weightwell.streams import Streams
from weightwell.transfers.destinations import (
    DataDestination,
    Destination,
    Document,
    InMemory,
    Region,
    SafetensorsFile,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT_SOURCE = "torch"  # of gains

# Arguments of ``init`` that ``init_`` takes from the tensor.
OF_TENSOR = ("shape", "dtype", "slice", "framework", "device", "out")

T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")

Cautions = Callable[[str, Streams], None]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, the destination of its answer, and ``result``, a function that returns the caller's result.

    ``label`` is the name on a progress bar. ``writes`` means that receiving may wait for a disk. ``cautions`` takes the
    rules that match no tensor, and warns of likely mistakes. ``connections`` is the number of connections; None means
    the client's setting.
    """

    request: Request
    destination: Destination
    result: Callable[[], T]
    label: str = ""
    writes: bool = False
    cautions: Cautions = lambda *_: None
    connections: int | None = None


class Caller(Protocol):
    """Makes calls, such as a client."""

    def __call__(self, call: Call[T]) -> T:
        """Make a call and return its result."""


class Drawn(SafetensorsFile):
    """A file, and the warnings about its content.

    ``spec`` is the requested spec, if it may have rules. ``module`` is the module that the file fills, if any.
    """

    def __init__(
        self,
        accept: Callable[[Header], int],
        data: DataDestination,
        spec: FileSpec | None = None,
        module: "nn.Module | None" = None,
    ):
        super().__init__(accept, data)
        self._rules = spec.document.get("rules", ()) if isinstance(spec, ManifestSpec) else ()
        self._module = module

    def cautions(self, unused: str, streams: Streams) -> None:
        """Warn of rules that match no tensor (the server lists them) and of repeated streams."""
        caution_unused(self._rules, unused)
        if streams.watching:
            streams.note(self.spec, self._module, layer=self._module is not None and is_layer(self._module))


def gain(nonlinearity: str, param: float | None, source: str | None, bias_variance: float | None) -> Call[Gain]:
    """Return the call for one gain."""

    def read(answer: Any) -> Gain:
        names = OneOf((nonlinearity, ACTIVATIONS.get(nonlinearity, nonlinearity)))
        raise_first(mismatches({"nonlinearity": names, "source": source or DEFAULT_SOURCE}, answer))
        if param is not None:
            raise_first(mismatches({"param": param}, _parameter(answer)))
        return _gain(answer)

    return _document("gain", read, nonlinearity=nonlinearity, param=param, source=source, bias_variance=bias_variance)


def gains(source: str | None) -> Call[dict[str, Gain]]:
    """Return the call for the table of gains."""

    def read(answer: Any) -> dict[str, Gain]:
        raise_first(mismatches({"source": source or DEFAULT_SOURCE}, answer))
        return {name: _gain(row) for name, row in answer["gains"].items()}

    return _document("gain", read, source=source)


def schemes() -> Call[Any]:
    """Return the call for the catalogue."""

    def read(answer: Any) -> Any:
        if not isinstance(answer["schemes"], list):
            raise TypeError("schemes")
        return answer

    return _document("schemes", read)


def signal(layers: Iterable[Mapping[str, Any]] | None, fields: Mapping[str, Any]) -> Call[Signal]:
    """Return the call for a signal through a stack of layers."""
    question = Question.of(layers, fields)
    return _asked(question.request, question.read)


def init(spec: TensorSpec, framework: str | None, device: object, out: object = None) -> Call[Any]:
    """Return the call for a tensor: a new one, or ``out``, which is filled in place."""
    if out is not None:
        return _init_out(spec, framework, device, out)
    view = viewer(framework, spec.dtype, device)
    if on_host(device):
        memory = InMemory()
        return _drawn(spec, memory, lambda: view(memory.memory, spec.extent))
    data = InTensors(device)
    return _drawn(spec, data, lambda: next(iter(data.tensors.values())))


def _init_out(spec: TensorSpec, framework: str | None, device: object, out: object) -> Call[Any]:
    """Return the call that draws a tensor into ``out``; raise ValueError if it has another shape or dtype."""
    if framework is not None or device is not None:
        raise ValueError("out= has a framework and a device: leave out framework= and device=")
    data = destination_of(out)
    if data.bounds is not None:  # a shard
        if data.shape != spec.shape or spec.bounds not in {None, data.bounds}:
            raise ValueError(
                f"out is the shard {text_of(data.bounds)} of a tensor of shape {list(data.shape)}, and the arguments "
                f"ask for {text_of(spec.bounds) if spec.bounds else 'the whole'} of {list(spec.shape)}: give the shape "
                "of the whole tensor, and leave out slice="
            )
        spec = replace(spec, bounds=data.bounds)
    if (data.extent, data.dtype) != (spec.extent, spec.dtype):
        raise ValueError(
            f"out has shape {list(data.extent)} and dtype {data.dtype.name}, and the arguments ask for "
            f"{list(spec.extent)} and {spec.dtype.name}: use init_(tensor, ...), which takes both from the tensor"
        )
    return _drawn(spec, data, data.commit)


def init_in_place(tensor: T, scheme: str, fields: Mapping[str, Any]) -> Call[T]:
    """Return the call that fills a tensor; ``fields`` are those of ``Client.init_``."""
    if own := [field for field in OF_TENSOR if field in fields]:
        raise TypeError(f"init_ takes {own[0]} from the tensor, got {own[0]}={fields[own[0]]!r:.80}: leave it out")
    data = destination_of(tensor)
    spec = TensorSpec.of(data.shape, scheme, dtype=data.dtype.name, **fields)
    return _drawn(replace(spec, bounds=data.bounds), data, data.commit)


def noise(
    what: Any,
    *,
    std: SupportsFloat,
    alpha: SupportsFloat,
    dtype: object,
    slice: SliceLike | None,  # noqa: A002 - the field's name
    framework: str | None,
    device: object,
    **fields: Any,
) -> tuple[Call[Any], AbstractContextManager[None]]:
    """Return the call for a new tensor of noise, or for noise that is added to a tensor; and a context to make it in.

    The context adds a note to errors which says how many elements of the tensor have been changed.
    """
    if not is_tensor(what):
        if alpha != 1:
            raise ValueError(f"alpha is the factor of noise that is added to a tensor, got alpha={alpha!r} and a shape")
        dtype = DEFAULT_DTYPE if dtype is None else dtype
        spec = TensorSpec.of(what, "normal", std=std, dtype=dtype, slice=slice, **fields)
        return init(spec, framework, device), nullcontext()
    others = {"dtype": dtype, "slice": slice, "framework": framework, "device": device}
    for field, value in others.items():
        if value is not None:
            raise TypeError(f"noise takes {field} from the tensor, got {field}={value!r:.80}: leave it out")
    place = destination_of(what)
    if not place.dtype.is_computed:
        raise ValueError(f"noise is added to floating-point numbers, got a tensor of {place.dtype.name}: convert it")
    data = Addition(place, float(alpha))
    spec = TensorSpec.of(place.shape, "normal", std=std, dtype=place.dtype.name, **fields)
    return _drawn(replace(spec, bounds=place.bounds), data, data.commit), data.explained()


def _drawn(spec: TensorSpec, data: DataDestination, result: Callable[[], T]) -> Call[T]:
    """Return the call for one tensor."""
    body = Drawn(spec.accept, data)
    return Call(spec.request, body, result, spec.label, cautions=body.cautions)


def save(spec: FileSpec, data: DataDestination) -> Call[None]:
    """Return the call that writes a file to a destination."""
    body = Drawn(spec.accept, data, spec)
    return Call(spec.request, body, lambda: None, spec.label, writes=True, cautions=body.cautions)


def checkpoint(spec: TensorSpec | ManifestSpec, limit: int, config: Config | None = None) -> Call[Checkpoint]:
    """Return the call that divides a file into files of at most ``limit`` bytes; it warns of unused rules."""
    call = plan(spec, lambda url: url)

    def cautions(*_: object) -> None:
        unused = call.result().unused
        caution_unused(unused, ", ".join(f"rules.{place}" for place in range(len(unused))))

    def result() -> Checkpoint:
        return Checkpoint.of(spec, call.result(), limit, config)

    return Call(call.request, call.destination, result, cautions=cautions)


def check_target(
    path: object, *, verify: bool, folder: bool = False, shard: object = None, config: object = None
) -> None:
    """Raise TypeError for anything but a path or a binary file, ValueError for one that cannot be verified.

    ``folder``: whether ``path`` is a folder. ``shard`` and ``config`` are for folders.
    """
    if not folder and (shard is not None or config is not None):
        raise ValueError(f"{'config' if shard is None else 'shard'}= needs max_shard_size=, such as '5GB'")
    if shard is not None and config is not None:
        raise ValueError("config= is written with the index: give it to the save() without shard=, which comes last")
    if isinstance(path, Manifest):
        raise TypeError("the path comes first: write save('model.safetensors', manifest)")
    if not (isinstance(path, str | os.PathLike) or hasattr(path, "write")):
        raise TypeError(
            f"expected a path or a binary file first, as in save('model.safetensors', ...), got {path!r:.80}"
        )
    if verify and not isinstance(path, str | os.PathLike):
        raise ValueError("verify=True needs a path, got a binary file: save without it, then use verify()")


def verify(claim: Claim) -> Call[Verdict]:
    """Return the call that compares a file with its metadata."""
    comparison = Comparison(claim)

    def accept(header: Header) -> int:
        raise_first(ManifestSpec.of(claim.document).mismatches(spec_of(header.metadata)), InvalidFile)
        return max((entry.stop for entry in header.entries.values()), default=0)

    body = SafetensorsFile(accept, comparison)
    request = asking_for_manifest("init", claim.document)
    return Call(request, body, comparison.verdict, f"{len(claim.entries)} tensors", writes=True)


def confirm(claim: Claim, output: Output) -> Call[Verdict]:
    """Return the call that compares a file that was just received with a second download, over one connection.

    Its result raises ``InvalidFile``, and does not keep the file, if they differ.
    """
    call = verify(claim)

    def result() -> Verdict:
        verdict = call.result()
        if not verdict.same:
            output.discard()
            raise InvalidFile(f"the file differs from a second download, and was removed: {verdict}")
        return verdict

    return replace(call, result=result, connections=1)


def presets() -> Call[Any]:
    """Return the call for the presets."""
    return _document("presets", lambda answer: answer)


def init_state_dict(spec: ManifestSpec, framework: str | None, device: object) -> Call[dict[str, Any]]:
    """Return the call for the tensors of a manifest, by name; tied names have one tensor."""
    viewer(framework, spec.dtype, device)  # raises MissingFramework before anything is drawn
    if on_host(device):
        memory = InMemory()
        body = Drawn(spec.accept, memory, spec)
        return _state_dict(spec, body, lambda: _views(body.header, memory.memory, framework, device))
    data = InTensors(device)
    return _state_dict(spec, Drawn(spec.accept, data, spec), lambda: data.tensors)


def _state_dict(spec: ManifestSpec, body: Drawn, tensors: Callable[[], dict[str, Any]]) -> Call[dict[str, Any]]:
    """Return the call for the tensors of a manifest, which ``tensors`` returns without their aliases."""

    def result() -> dict[str, Any]:
        stored = tensors()
        return {name: stored[spec.aliases.get(name, name)] for name in spec.names}

    return Call(spec.request, body, result, spec.label, cautions=body.cautions)


def fill(spec: ManifestSpec, tensors: "Mapping[str, torch.Tensor]") -> Call[None]:
    """Return the call that draws a manifest into torch tensors that exist, by name.

    The tensors have the shapes of the manifest's slices; values are converted to their dtypes. The spec may be a part
    of a manifest, so rules that match no tensor are no mistake. Raises ValueError for a tensor that cannot be filled,
    or has another shape.
    """
    for name, tensor in tensors.items():
        expected = spec.stored[name]
        extent = expected.dtype.of_torch(expected.extent) if expected.dtype else expected.extent
        if tuple(tensor.shape) != extent:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, and the slice of the manifest {list(extent)}")
    data = InTargets(tensors)
    body = Drawn(spec.accept, data)
    return Call(spec.request, body, data.commit, spec.label, cautions=body.cautions)


def init_module(
    module: M, rules: Rules | Manifest | None, *, device: object, reset_buffers: Reset | None, **said: Any
) -> Call[M]:
    """Return the call that fills a module; ``said`` are the keyword arguments of ``Manifest.from_module``."""
    prefix = said["prefix"] = said.get("prefix", "")
    manifest = rules if isinstance(rules, Manifest) else Manifest.from_module(module, rules, **said)
    if manifest is rules and (twice := [key for key, value in said.items() if value and key != "prefix"]):
        raise ValueError(f"{twice[0]} is part of the manifest: change it there")
    spec, data = filling_of(
        module,
        ManifestSpec.of(manifest.document(computed=False)),
        device=device,
        reset_buffers=reset_buffers,
        prefix=prefix,
        numbers=manifest.numbers(),
    )
    body = Drawn(spec.accept, data, spec, module)
    return Call(spec.request, body, data.commit, spec.label, cautions=body.cautions)


def plan(spec: TensorSpec | ManifestSpec, url: Callable[[str | None], str | None]) -> Call[Plan]:
    """Return the call for a plan; ``url`` makes the address of a file absolute."""
    rules = spec.document.get("rules", ()) if isinstance(spec, ManifestSpec) else ()

    def read(answer: Any) -> Plan:
        raise_first(spec.mismatches(_planned(answer)))
        return Plan.of(answer, rules, url(answer["url"]))

    return _asked(replace(spec.request, path="plan"), read)


def sign(spec: TensorSpec | ManifestSpec, seconds: int, url: Callable[[str | None], str | None]) -> Call[str]:
    """Return the call for an address that needs no token for some seconds; raise ValueError without a server."""
    if url("") is None:
        raise ValueError("this client draws in its own process, so its files have no address: use that of a server")
    call = plan(spec, url)

    def result() -> str:
        planned = call.result()
        if planned.url is None:
            raise ValueError(f"the file has no address: {planned.url_note}")
        return planned.url

    request = replace(call.request, options={"sign_for": integer_of("seconds", seconds)})
    return Call(request, call.destination, result)


def inspect(spec: TensorSpec | ManifestSpec) -> Call[Any]:
    """Return the call for the statistics of a tensor."""

    def read(answer: Any) -> Any:
        planned = {"generator": answer["generator"], "tensors": {answer["name"]: answer["tensor"]}}
        raise_first(spec.mismatches(_planned(planned)))
        return answer

    return _asked(replace(spec.request, path="inspect"), read)


def read_range(request: Request, plan: Plan, start: int, buffer: memoryview) -> Call[int]:
    """Return the call that fills a buffer with the bytes from ``start`` on of a planned file."""
    return Call(request, Region(start, buffer, plan.nbytes, plan.etag), lambda: len(buffer))


def check_ranges(request: Request) -> None:
    """Raise ValueError for a file that a server cannot send by ranges."""
    if request.method != "GET":
        raise ValueError(
            "the manifest is too long for a URL, so its file has no ranges: open a manifest of fewer tensors, use "
            "weightwell.local(), or save the file and open it"
        )


def _planned(answer: Any) -> dict[str, Any]:
    """Return the spec of a plan, in the form of a file's metadata."""
    tensors = {
        name: {**fields_of(tensor), "parts": [fields_of(part) for part in tensor.get("parts") or ()]}
        for name, tensor in answer["tensors"].items()
    }
    return {"generator": answer["generator"]["name"], "tensors": tensors}


def _parameter(answer: Any) -> dict[str, Any]:
    """Return the parameter of a requested gain. The answer has it under torch's name."""
    stated = [{"param": answer.get("param")}, answer.get("parameters"), answer.get("ignored")]
    values = [value for fields in stated if fields for value in fields.values() if value is not None]
    return {"param": values[0] if len(values) == 1 else None}


def _views(header: Header, memory: Memory, framework: str | None, device: object) -> dict[str, Any]:
    """Return the tensors of a file, by name, as views of its data."""
    whole = memoryview(memory)
    return {
        name: viewer(framework, BY_CODE[entry.dtype], device)(whole[entry.start : entry.stop], entry.shape)
        for name, entry in header.entries.items()
    }


def _gain(row: Any) -> Gain:
    """Return the gain in one row of the answer."""
    return Gain(row["gain"], row)


def _document(path: str, read: Callable[[Any], T], **fields: Any) -> Call[T]:
    """Return a call with some fields and a JSON answer."""
    return _asked(asking(path, **fields), read)


def _asked(request: Request, read: Callable[[Any], T]) -> Call[T]:
    """Return a call with a JSON answer."""

    def judged(answer: Any) -> T:
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"the answer of /{request.path} has an unexpected form: {answer!r:.200}"
            raise UnexpectedResponse(text) from error

    document = Document(judged)
    return Call(request, document, document.result)
