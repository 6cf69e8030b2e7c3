"""The synchronous client: each method makes a call, which is a transfer over httpx."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat, TypeVar, Unpack, overload

from weightwell import calls
from weightwell.calls import Call
from weightwell.doors import CONNECTIONS, TIMEOUT, door_to
from weightwell.files.comparison import Claim, Verdict
from weightwell.files.folder import Folder
from weightwell.files.output import Target, opened
from weightwell.files.remote import OpenFile
from weightwell.forms import Described, manifest_of, spec_of
from weightwell.gains import Gain
from weightwell.in_process.address import url_of
from weightwell.literals import (
    DTypeLike,
    FileFields,
    FrameworkName,
    GainSource,
    GeneratorName,
    NoiseFields,
    Parameters,
    SchemeName,
    SeedLike,
    SignalFields,
    TensorFields,
)
from weightwell.models.checkpoint import config_of
from weightwell.models.filling import Reset
from weightwell.models.manifest import Manifest
from weightwell.models.plans import Plan
from weightwell.models.recipes import Preset, Rules
from weightwell.propagation.stacks import Signal
from weightwell.sharding import bytes_of
from weightwell.slices import SliceLike
from weightwell.spec import FileSpec, ManifestSpec, ShapeLike, TensorSpec
from weightwell.streams import Streams
from weightwell.tracebacks import short_tracebacks
from weightwell.transfers.progress import Progress

if TYPE_CHECKING:
    import httpx
    import numpy as np
    import torch
    from torch import nn

T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")
A = TypeVar("A", bound="torch.Tensor | np.ndarray[Any, Any]")


@short_tracebacks
class Client:
    """Draws initialized weight tensors from a Weightwell server.

    Threads may share a client. A forked process may use the client of its parent, and a client can be pickled and
    copied: each process opens its own connections. Close a client, or use it in a ``with`` statement.

    ``base_url``: the address of the server; by default ``$WEIGHTWELL_URL``, or ``http://127.0.0.1:8000``.
    ``timeout``: seconds without a byte before the client gives up, or another timeout of httpx; by default 600, and 5
    to connect.
    ``headers``, ``auth``: as in ``httpx.Client``.
    ``token``: the token for a server that needs one; by default ``$WEIGHTWELL_TOKEN``. It is sent with every request,
    unless ``auth`` is given.
    ``transport``: a transport of httpx, which works only in the process that made it; or a function without arguments
    that returns one, which is called in every process.
    ``deadline``: seconds that a call may take in all, or None for any number.
    ``wait``: seconds for which the client tries again while no byte arrives; 0 for a single attempt. By default 3 until
    a server has answered this client once, and 300 afterwards, enough for a server to restart. Every request is safe to
    repeat, and a broken body is continued where it broke.
    ``progress``: True for a progress bar on every tensor, False for none, None for bodies of 64 MiB or more on a
    terminal or in a notebook.
    ``connections``: the number of connections for a file of 64 MiB or more, each for an equal range of it. Files whose
    ranges cost the server as much as the whole, such as those of ``generator="torch"``, take one connection.

    Every method raises ``WeightwellError`` (the tree is in ``weightwell.exceptions``), and TypeError or ValueError for
    an argument that cannot be sent.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: "float | tuple[float | None, ...] | httpx.Timeout | None" = TIMEOUT,
        headers: Mapping[str, str] | None = None,
        auth: "tuple[str, str] | httpx.Auth | None" = None,
        token: str | None = None,
        transport: "httpx.BaseTransport | Callable[[], httpx.BaseTransport] | None" = None,
        wait: float | None = None,
        progress: bool | None = None,
        connections: int = CONNECTIONS,
        deadline: float | None = None,
    ):
        options = {"timeout": timeout, "headers": headers, "auth": auth, "token": token, "transport": transport}
        self._door = door_to(base_url, wait=wait, connections=connections, **options)
        self._progress = progress
        self._deadline = float("inf") if deadline is None else deadline
        self._streams = Streams()

    def gain(
        self,
        nonlinearity: str,
        param: float | None = None,
        *,
        source: GainSource | str | None = None,
        bias_variance: float | None = None,
    ) -> Gain:
        """Return the gain for a nonlinearity, a float: ``torch.nn.init.calculate_gain``, bit for bit.

        ``param`` is the negative slope of ``leaky_relu``. ``source="quadrature"`` computes 1/sqrt(E[f(z)^2]) for
        z ~ N(0, 1) instead, for any activation that torch has. Such a gain also says what it does in a deep stack of
        layers: ``slope``, ``stability``, ``chi_1``, and ``edge_of_chaos``, which has this ``bias_variance`` if it is
        given.
        """
        return self._call(calls.gain(nonlinearity, param, source, bias_variance))

    def gains(self, *, source: GainSource | str | None = None) -> dict[str, Gain]:
        """Return every gain that the server knows, by the name of its nonlinearity."""
        return self._call(calls.gains(source))

    def signal(self, layers: Iterable[Mapping[str, Any]] | None = None, **fields: Unpack[SignalFields]) -> Signal:
        """Send a signal and its gradient through a stack of layers, measured and predicted by mean-field theory.

        Without ``layers``: ``depth`` equal layers of ``width`` units. ``activation`` is a name of ``gains`` with
        ``source="quadrature"``, ``scheme`` and its parameters are those of ``init``, and ``bias`` is a scheme whose
        parameters begin with ``bias_``: ``bias="normal", bias_std=0.2``. The same holds for the ``input``.
        ``normalization``: ``"none"``, ``"layer"``, ``"rms"``, ``"batch"``, ``"group"`` or ``"instance"``.
        ``residual``: ``"none"``, ``"pre-norm"`` or ``"post-norm"``. ``kind``: ``"linear"`` or ``"conv2d"``.
        ``batch``: the number of examples. ``seeds``: one or several; each draws its own network.
        ``correlation``: that of two inputs, in [-1, 1]. ``dtype``: float32, float64, float16 or bfloat16.

        ``layers``: a list of dicts with these fields, from the input to the output; ``repeat`` is the number of equal
        layers in a row. docs/signal.md describes all fields and the answer.

        ``print(signal)`` shows a table; ``plot()`` draws it; ``to_pandas()`` returns all numbers. The weights are those
        of ``init`` with the names, seeds and schemes in ``signal.layers``. This needs torch in the process that
        measures. Raises ``TooLarge`` if the server's limits do not allow so much.
        """
        return self._call(calls.signal(layers, fields))

    def schemes(self) -> Any:
        """Return the catalogue of schemes: names, formulas, parameters, references."""
        return self._call(calls.schemes())

    def presets(self) -> Any:
        """Return the presets: names, parameters, references, and an example of the rules."""
        return self._call(calls.presets())

    @overload
    def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: Literal["torch"],
        device: object = None,
        **fields: Unpack[TensorFields],
    ) -> "torch.Tensor": ...

    @overload
    def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: Literal["numpy"],
        device: None = None,
        **fields: Unpack[TensorFields],
    ) -> "np.ndarray[Any, np.dtype[Any]]": ...

    @overload
    def init(self, shape: ShapeLike, scheme: SchemeName | str, *, out: A, **fields: Unpack[TensorFields]) -> A: ...

    @overload
    def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: None = None,
        device: object = None,
        **fields: Unpack[TensorFields],
    ) -> Any: ...

    def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        seed: SeedLike = 0,
        dtype: DTypeLike = "float32",
        name: str | None = None,
        generator: GeneratorName | str | None = None,
        slice: SliceLike | None = None,  # noqa: A002 - the field's name
        stream: str | None = None,
        framework: FrameworkName | None = None,
        device: object = None,
        out: Any = None,
        **parameters: Any,
    ) -> Any:
        """Draw a tensor and return it: a ``torch.Tensor``, or a ``numpy.ndarray`` without torch.

        The numbers depend on ``seed`` and ``name`` alone. Two tensors with the same seed and name have the same random
        numbers, whatever their shapes and schemes: give each tensor its own ``name``. A client warns once if it draws a
        seed and a name again for another shape or law (``RepeatedStreamWarning``).

        ``shape``: the shape of the whole tensor, ``(out, in, ...)`` as in torch, from which the fans are counted. Any
        sequence of integers, an array of one dimension, or one integer.
        ``scheme``: a name of the catalogue (``schemes()``), such as ``"kaiming_normal"``; its ``parameters`` have the
        names and defaults of torch: ``a=0.2``, ``gain=2**0.5``, ``mode="fan_out"``.
        ``seed``: an integer in [0, 2^64 - 1], or its decimal digits.
        ``dtype``: a name, a ``torch.dtype`` or a numpy dtype.
        ``name``: the name of the tensor; ``weight`` by default.
        ``generator``: ``"philox"`` or ``"torch"``; the default of the server if None.
        ``slice``: the part to draw, as slices of numpy: ``np.s_[0:128]`` or ``"0:128,:"``.
        ``stream``: the name that the random numbers are derived from instead of ``name``: that of another tensor, for a
        copy of it.
        ``framework``: ``"torch"`` or ``"numpy"``.
        ``device``: the device of the new torch tensor. The bytes are received in blocks, and each is copied there.
        ``out``: a torch tensor or a numpy array, which is filled and returned, as by ``init_``. Raises ValueError
        unless its shape is that of the slice or tensor, and its dtype is ``dtype``.
        """
        spec = TensorSpec.of(
            shape,
            scheme,
            seed=seed,
            dtype=dtype,
            name=name,
            generator=generator,
            slice=slice,
            stream=stream,
            **parameters,
        )
        return self._call(calls.init(spec, framework, device, out))

    def init_(
        self,
        tensor: A,
        scheme: SchemeName | str,
        *,
        seed: SeedLike = 0,
        name: str | None = None,
        generator: GeneratorName | str | None = None,
        stream: str | None = None,
        **parameters: Unpack[Parameters],
    ) -> A:
        """Fill a tensor in place, as the functions of ``torch.nn.init`` do, and return it.

        ``tensor``: a torch tensor or parameter, on any device, or a writable numpy array. Shape and dtype are those of
        the tensor. Each rank draws its shard of a DTensor.
        ``scheme``, ``parameters``, ``seed``, ``name``, ``generator``, ``stream``: as in ``init``. The values are those
        that ``init`` returns.

        Contiguous memory is filled directly. A tensor with other strides is received into new memory and copied.
        Gradients are not recorded, and autograd notices the change: ``backward`` through a graph that saved the old
        value is an error, as after every in-place operation.

        Raises TypeError for anything else than a tensor; ValueError for a tensor that is on the meta device, expanded,
        sparse, quantized or read-only; and torch's RuntimeError for an inference tensor outside inference mode. After
        a transfer that failed, the tensor may be partly overwritten.
        """
        fields = {"seed": seed, "name": name, "generator": generator, "stream": stream, **parameters}
        return self._call(calls.init_in_place(tensor, scheme, fields))

    @overload
    def noise(self, what: A, *, alpha: SupportsFloat = 1.0, **fields: Unpack[NoiseFields]) -> A: ...

    @overload
    def noise(
        self,
        what: ShapeLike,
        *,
        framework: Literal["torch"],
        dtype: "DTypeLike | None" = None,
        slice: SliceLike | None = None,
        device: object = None,
        **fields: Unpack[NoiseFields],
    ) -> "torch.Tensor": ...

    @overload
    def noise(
        self,
        what: ShapeLike,
        *,
        framework: Literal["numpy"],
        dtype: "DTypeLike | None" = None,
        slice: SliceLike | None = None,
        device: None = None,
        **fields: Unpack[NoiseFields],
    ) -> "np.ndarray[Any, np.dtype[Any]]": ...

    @overload
    def noise(
        self,
        what: ShapeLike,
        *,
        framework: None = None,
        dtype: "DTypeLike | None" = None,
        slice: SliceLike | None = None,
        device: object = None,
        **fields: Unpack[NoiseFields],
    ) -> Any: ...

    def noise(
        self,
        what: Any,
        *,
        seed: SeedLike = 0,
        name: str | None = None,
        std: SupportsFloat = 1.0,
        alpha: SupportsFloat = 1.0,
        generator: GeneratorName | str | None = None,
        stream: str | None = None,
        dtype: "DTypeLike | None" = None,
        slice: SliceLike | None = None,  # noqa: A002 - the field's name
        framework: FrameworkName | None = None,
        device: object = None,
    ) -> Any:
        """Draw normal noise with mean 0, or add it to a tensor in place.

        ``what``: a shape, for a new tensor; or a torch tensor or a numpy array, to which ``alpha`` times the noise is
        added, and which is returned. An array of integers of one dimension is a shape. The noise is bit for bit
        ``init(shape, "normal", std=std, ...)``, with the shape and the dtype of the tensor.
        ``std``: the standard deviation. ``alpha``: the factor; -1.0 subtracts.
        ``seed``, ``name``, ``generator``, ``stream``: as in ``init``; ``dtype``, ``slice``, ``framework`` and
        ``device`` too, for a new tensor.

        The noise is added in blocks of 1 MiB (16 MiB on a GPU), without a second copy of the tensor, and each element
        once, even if the connection breaks. Each rank adds to its shard of a DTensor. The product with ``alpha`` and
        the sum are computed in float32, or in float64 for float64, and rounded to the dtype. So to subtract what was
        added gives the old values only up to rounding: keep a copy if you need them exactly.

        Raises the errors of ``init_``, and ``InvalidFile`` if the server's file changed after a part of it was added.
        An error after a part was added has a note with the number of elements that have been changed.
        """
        call, context = calls.noise(
            what,
            std=std,
            alpha=alpha,
            dtype=dtype,
            slice=slice,
            framework=framework,
            device=device,
            seed=seed,
            name=name,
            generator=generator,
            stream=stream,
        )
        with context:
            return self._call(call)

    def plan(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> Plan:
        """Return the size and the URL of a file and the distribution of every tensor, without drawing it.

        ``what``: a shape, with a scheme and the ``fields`` of ``init``; or a ``Manifest``; or a torch module, with the
        ``fields`` of ``Manifest.from_module``; or a dict with the JSON of docs/http.md:
        ``{"shape": [512, 784], "scheme": "kaiming_normal"}``, ``{"tensors": {...}, "preset": "llama"}``.
        """
        return self._call(calls.plan(spec_of(what, scheme, fields), self._door.url))

    def sign(
        self,
        what: ShapeLike | Described,
        scheme: SchemeName | str | None = None,
        *,
        seconds: int,
        **fields: Unpack[FileFields],
    ) -> str:
        """Return the address of a file which needs no token for some seconds, for a program that has none.

        ``what``, ``scheme``, ``fields``: as for ``plan``. ``seconds``: 1 to 604800, which is a week. Raises
        ``InvalidRequest`` if the server has no signing key, and ValueError for a manifest that is too long for a URL.
        """
        return self._call(calls.sign(spec_of(what, scheme, fields), seconds, self._door.url))

    def inspect(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> Any:
        """Draw a tensor where the service runs, and return statistics of its elements, next to those of its law.

        ``what``, ``scheme``, ``fields``: as for ``plan``, of one tensor with elements.

        The result is the JSON of ``/inspect`` (docs/http.md): ``moments``, each with ``measured``, ``standard_error``
        and ``theory``; ``quantiles``; ``histogram``; ``heat_map``; ``singular_values`` and ``eigenvalues`` of a small
        matrix; ``smallest``, ``largest``, ``count``, ``zeros``. Raises ``TooLarge`` if a server would need too long.
        """
        return self._call(calls.inspect(spec_of(what, scheme, fields)))

    @overload
    def init_state_dict(
        self, what: Described, *, framework: Literal["torch"], device: object = None, **fields: Any
    ) -> "dict[str, torch.Tensor]": ...

    @overload
    def init_state_dict(
        self, what: Described, *, framework: Literal["numpy"], device: None = None, **fields: Any
    ) -> "dict[str, np.ndarray[Any, np.dtype[Any]]]": ...

    @overload
    def init_state_dict(
        self, what: Described, *, framework: None = None, device: object = None, **fields: Any
    ) -> dict[str, Any]: ...

    def init_state_dict(
        self, what: Described, *, framework: FrameworkName | None = None, device: object = None, **fields: Any
    ) -> dict[str, Any]:
        """Draw several tensors, and return them by name, in their order.

        ``what``: a ``Manifest``, a torch module or a dict, as for ``plan``. A module is not changed.
        ``framework``, ``device``: as in ``init``.

        The tensors are views of one buffer; on a ``device`` other than the CPU, each has its own memory. An alias is
        the same tensor as its target.
        """
        spec = ManifestSpec.of(manifest_of(what, fields).document())
        return self._call(calls.init_state_dict(spec, framework, device))

    def init_module_(
        self,
        module: M,
        rules: Rules | Manifest | None = None,
        *,
        preset: Preset | None = None,
        seed: SeedLike = 0,
        generator: GeneratorName | str | None = None,
        device: object = None,
        reset_buffers: Reset | None = None,
        prefix: str = "",
    ) -> M:
        """Fill a torch module in place, and return it.

        ``rules``: the name of a preset; or a list of rules; or a mapping of module types to schemes, such as
        ``{nn.Linear: "xavier_uniform"}``, where torch's defaults apply to all other types; or a ``Manifest``, which
        fills the tensors that it names and no others. ``preset`` applies to tensors that no rule matches: ``"torch"``,
        ``{"name": "gpt2", "layers": 12}``. Without rules and preset, torch's defaults apply.
        ``seed``, ``generator``: as in ``init``. Shapes, dtypes and names are those of the module.
        ``prefix``: a prefix for all names: ``prefix="encoder"`` draws ``encoder.0.weight``. Tensors of the same name
        have the same numbers, so give each module that you fill with one seed its own prefix.
        ``device``: the device for parameters and buffers that are on the meta device.
        ``reset_buffers``: a function of a module that computes its buffers on the meta device which are not
        initialized, such as tables of angles; by default the ``reset_parameters`` of the module.

        Names do not contain the parts that DistributedDataParallel, torch.compile and other wrappers add
        (``canonical_name``). Tied parameters stay tied. Each rank draws its shards of DTensors. The padding row of an
        embedding is zero. If a module computes a tensor, by a weight norm or another parametrization, that tensor is
        drawn, and the originals are set to match it.

        Raises ValueError, before a byte is written, if the module and the rules do not fit; and at the end if a
        parametrization cannot have the value that was drawn. Warns if no tensor uses a rule (``UnusedRuleWarning``),
        or if weights keep their values (``UnfilledWarning``). After a transfer that failed, parameters on the meta
        device are unchanged, and others may be partly overwritten.
        """
        said = {"preset": preset, "seed": seed, "generator": generator, "prefix": prefix}
        return self._call(calls.init_module(module, rules, device=device, reset_buffers=reset_buffers, **said))

    def save(
        self,
        path: Target,
        what: ShapeLike | Described,
        scheme: SchemeName | str | None = None,
        *,
        verify: bool = False,
        max_shard_size: int | str | None = None,
        shard: str | None = None,
        config: object = None,
        **fields: Unpack[FileFields],
    ) -> None:
        """Save one or many tensors as a safetensors file, with exactly the bytes that the server sends.

        ``path``: the file to write, or a binary file that you have opened.
        ``what``, ``scheme``, ``fields``: as for ``plan``. ``save(path, (512, 784), "kaiming_normal", seed=42)`` saves
        one tensor, ``save(path, manifest)`` many.
        ``verify``: generate the file a second time and compare every byte before it appears at ``path``. Raises
        ``InvalidFile`` if a byte differs.
        ``max_shard_size``: makes ``path`` a folder with the files that ``save_pretrained`` of transformers writes:
        ``model.safetensors``; or, if the tensors are larger than this size (``"5GB"``, or a number of bytes), files
        ``model-00001-of-0000N.safetensors`` of at most this size and ``model.safetensors.index.json``. Names of tied
        tensors are left out of several files. Each file appears when it is complete, the index last. Complete files
        of the same tensors are kept, unless ``verify``. Weight files of another checkpoint are removed at the end.
        ``shard``: with ``max_shard_size``, the name of one of these files (``shards`` lists them): write only this one.
        Any number of processes may write different files at once. A last ``save`` without ``shard`` keeps them,
        draws what is missing, and writes the index.
        ``config``: with ``max_shard_size``, the configuration of the model: a dict, a configuration of transformers, or
        the path of a JSON file. It is written as ``config.json``, with the dtype of the manifest.

        The file appears at ``path`` when it is complete and on the disk. An interrupted save leaves ``PATH.part`` and
        ``PATH.part.json``, and the next save of the same file continues there. Raises OSError where the file cannot be
        written, BlockingIOError where another process is saving to the same path.
        """
        calls.check_target(path, verify=verify, folder=max_shard_size is not None, shard=shard, config=config)
        spec = spec_of(what, scheme, fields)
        if max_shard_size is None:
            self._save(path, spec, verify=verify)
            return
        content = config_of(config)
        limit, folder = bytes_of(max_shard_size), Folder(path)
        checkpoint = self._call(calls.checkpoint(spec, limit, content))
        for name, each in checkpoint.chosen(shard).items():
            if verify or not folder.has(name, each):
                self._save(folder.path / name, each, verify=verify)
        if shard is None:
            folder.finish(checkpoint.files.keys(), checkpoint.index, checkpoint.config)

    def shards(
        self,
        what: ShapeLike | Described,
        scheme: SchemeName | str | None = None,
        *,
        max_shard_size: int | str,
        **fields: Unpack[FileFields],
    ) -> list[str]:
        """Return the names of the weight files that ``save`` writes with the same arguments. Nothing is drawn.

        ``save(..., shard=name)`` writes one of them, so that each process of a job can write its own.
        """
        call = calls.checkpoint(spec_of(what, scheme, fields), bytes_of(max_shard_size))
        return list(self._call(call).files)

    def _save(self, path: Target, spec: FileSpec, *, verify: bool) -> None:
        """Save one file."""
        output = opened(path)
        try:
            self._call(calls.save(spec, output.destination))
            if verify:
                with closing(output.claim()) as claim:
                    self._call(calls.confirm(claim, output))
            output.commit()
        finally:
            output.close()

    def open(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> OpenFile:
        """Return a file object of the file that ``save`` writes: seekable, read-only, an ``io.RawIOBase``.

        ``what``, ``scheme``, ``fields``: as for ``plan``. Nothing is stored: bytes are generated as they are read, and
        all of them belong to the same file (its entity tag is checked). Each ``read`` is one request. Use
        ``io.BufferedReader(file, 1 << 20)`` for many small reads. If ranges of the file cost the server as much as the
        whole, such as those of ``generator="torch"``, read it with one ``read()``.

        Raises ValueError for a manifest that is too long for a URL of a server. Reads raise the errors of every
        method, and ``FileChanged`` if the server has another file by then.
        """
        return self._door.open(spec_of(what, scheme, fields), self._call)

    def verify(self, path: str | os.PathLike[str]) -> Verdict:
        """Generate a safetensors file again from its metadata, and compare every byte; the file is not changed.

        The verdict is ``same``, or ``str(verdict)`` has the differences. Raises OSError if the file cannot be read, and
        ValueError if it is not a safetensors file or has no spec in its metadata.
        """
        with closing(Claim(Path(path))) as claim:
            return self._call(calls.verify(claim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._door.address!r})"

    def close(self) -> None:
        """Close the connections of this process."""
        self._door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[T]) -> T:
        """Make a call and return its result."""
        bar = Progress(call.label, self._progress if call.label else False)
        with closing(bar) as progress:
            unused = self._door.answer(call, progress, self._deadline)
        result = call.result()
        call.cautions(unused, self._streams)
        return result


def local(device: object = "cpu", threads: int | None = None, *, progress: bool | None = None) -> Client:
    """Return a client that draws in this process, without a server: the same methods, the same bytes.

    ``device``: where files and arrays are drawn: ``"cpu"``, ``"cuda:1"``, a ``torch.device``. Tensors on a GPU are
    drawn on their own GPU.
    ``threads``: the number of threads that draw; by default one for each CPU.
    ``progress``: as in ``Client``.

    ``Client("local:")``, or ``$WEIGHTWELL_URL`` set to that, is the same: ``local:cuda:1``, ``local:cpu?threads=4``.
    Raises ValueError for another device, and ``MissingFramework`` if ``weightwell[local]`` is not installed.
    """
    return Client(url_of(device, threads), progress=progress)
