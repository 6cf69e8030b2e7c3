"""The asynchronous client: the methods of ``Client``, for asyncio and trio."""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, SupportsFloat, TypeVar, Unpack, overload

import anyio
import anyio.to_thread

from weightwell import calls
from weightwell.calls import Call
from weightwell.doors import CONNECTIONS, TIMEOUT, async_door_to
from weightwell.files.comparison import Claim, Verdict
from weightwell.files.folder import Folder
from weightwell.files.output import Target, opened
from weightwell.forms import Described, manifest_of, spec_of
from weightwell.gains import Gain
from weightwell.literals import (
    DTypeLike,
    FileFields,
    FrameworkName,
    GainSource,
    GeneratorName,
    InPlaceFields,
    NoiseFields,
    SchemeName,
    SeedLike,
    SignalFields,
    TensorFields,
)
from weightwell.models.checkpoint import config_of
from weightwell.models.filling import Reset
from weightwell.models.manifest import Manifest
from weightwell.models.plans import Plan
from weightwell.models.recipes import Rules
from weightwell.propagation.stacks import Signal
from weightwell.sharding import bytes_of
from weightwell.slices import SliceLike
from weightwell.spec import FileSpec, ManifestSpec, ShapeLike, TensorSpec
from weightwell.streams import Streams
from weightwell.threads import in_thread
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
C = TypeVar("C", bound="Closable")


class Closable(Protocol):
    """An object with a method ``close``."""

    def close(self) -> None:
        """Release its resources."""


@short_tracebacks
class AsyncClient:
    """Draws initialized weight tensors from a Weightwell server, in an event loop.

    The arguments and the methods are those of ``Client``; every method is awaited. A client may be used in several
    event loops, in turn or at once. Each loop has its own connections, which close when it ends. Close a client with
    ``aclose()``, or use it in an ``async with`` statement.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: "float | tuple[float | None, ...] | httpx.Timeout | None" = TIMEOUT,
        headers: Mapping[str, str] | None = None,
        auth: "tuple[str, str] | httpx.Auth | None" = None,
        token: str | None = None,
        transport: "httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport] | None" = None,
        wait: float | None = None,
        progress: bool | None = None,
        connections: int = CONNECTIONS,
        deadline: float | None = None,
    ):
        options = {"timeout": timeout, "headers": headers, "auth": auth, "token": token, "transport": transport}
        self._door = async_door_to(base_url, wait=wait, connections=connections, **options)
        self._progress = progress
        self._deadline = float("inf") if deadline is None else deadline
        self._streams = Streams()

    async def gain(
        self,
        nonlinearity: str,
        param: float | None = None,
        *,
        source: GainSource | str | None = None,
        bias_variance: float | None = None,
    ) -> Gain:
        """Return the gain for a nonlinearity; see ``Client.gain``."""
        return await self._call(calls.gain(nonlinearity, param, source, bias_variance))

    async def gains(self, *, source: GainSource | str | None = None) -> dict[str, Gain]:
        """Return every gain that the server knows, by the name of its nonlinearity."""
        return await self._call(calls.gains(source))

    async def signal(self, layers: Iterable[Mapping[str, Any]] | None = None, **fields: Unpack[SignalFields]) -> Signal:
        """Send a signal and its gradient through a stack of layers; see ``Client.signal``."""
        return await self._call(calls.signal(layers, fields))

    async def schemes(self) -> Any:
        """Return the catalogue of schemes; see ``Client.schemes``."""
        return await self._call(calls.schemes())

    async def presets(self) -> Any:
        """Return the presets; see ``Client.presets``."""
        return await self._call(calls.presets())

    @overload
    async def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: Literal["torch"],
        device: object = None,
        **fields: Unpack[TensorFields],
    ) -> "torch.Tensor": ...

    @overload
    async def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: Literal["numpy"],
        device: None = None,
        **fields: Unpack[TensorFields],
    ) -> "np.ndarray[Any, np.dtype[Any]]": ...

    @overload
    async def init(
        self, shape: ShapeLike, scheme: SchemeName | str, *, out: A, **fields: Unpack[TensorFields]
    ) -> A: ...

    @overload
    async def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: None = None,
        device: object = None,
        **fields: Unpack[TensorFields],
    ) -> Any: ...

    async def init(
        self,
        shape: ShapeLike,
        scheme: SchemeName | str,
        *,
        framework: FrameworkName | None = None,
        device: object = None,
        out: Any = None,
        **fields: Any,
    ) -> Any:
        """Draw a tensor and return it; ``Client.init`` describes the ``fields``."""
        return await self._call(calls.init(TensorSpec.of(shape, scheme, **fields), framework, device, out))

    async def init_(self, tensor: A, scheme: SchemeName | str, **fields: Unpack[InPlaceFields]) -> A:
        """Fill a tensor in place, and return it; see ``Client.init_``."""
        return await self._call(calls.init_in_place(tensor, scheme, fields))

    @overload
    async def noise(self, what: A, *, alpha: SupportsFloat = 1.0, **fields: Unpack[NoiseFields]) -> A: ...

    @overload
    async def noise(
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
    async def noise(
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
    async def noise(
        self,
        what: ShapeLike,
        *,
        framework: None = None,
        dtype: "DTypeLike | None" = None,
        slice: SliceLike | None = None,
        device: object = None,
        **fields: Unpack[NoiseFields],
    ) -> Any: ...

    async def noise(
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
        """Draw normal noise, or add it to a tensor in place; see ``Client.noise``."""
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
            return await self._call(call)

    async def plan(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> Plan:
        """Return the size, the URL and the distributions of a file without drawing it; see ``Client.plan``."""
        return await self._call(calls.plan(spec_of(what, scheme, fields), self._door.url))

    async def sign(
        self,
        what: ShapeLike | Described,
        scheme: SchemeName | str | None = None,
        *,
        seconds: int,
        **fields: Unpack[FileFields],
    ) -> str:
        """Return the address of a file which needs no token for some seconds; see ``Client.sign``."""
        return await self._call(calls.sign(spec_of(what, scheme, fields), seconds, self._door.url))

    async def inspect(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> Any:
        """Draw a tensor, and return statistics of its elements, next to those of its law; see ``Client.inspect``."""
        return await self._call(calls.inspect(spec_of(what, scheme, fields)))

    @overload
    async def init_state_dict(
        self, what: Described, *, framework: Literal["torch"], device: object = None, **fields: Any
    ) -> "dict[str, torch.Tensor]": ...

    @overload
    async def init_state_dict(
        self, what: Described, *, framework: Literal["numpy"], device: None = None, **fields: Any
    ) -> "dict[str, np.ndarray[Any, np.dtype[Any]]]": ...

    @overload
    async def init_state_dict(
        self, what: Described, *, framework: None = None, device: object = None, **fields: Any
    ) -> dict[str, Any]: ...

    async def init_state_dict(
        self, what: Described, *, framework: FrameworkName | None = None, device: object = None, **fields: Any
    ) -> dict[str, Any]:
        """Draw several tensors, and return them by name; see ``Client.init_state_dict``."""
        spec = ManifestSpec.of(manifest_of(what, fields).document())
        return await self._call(calls.init_state_dict(spec, framework, device))

    async def init_module_(
        self,
        module: M,
        rules: Rules | Manifest | None = None,
        *,
        device: object = None,
        reset_buffers: Reset | None = None,
        **manifest: Any,
    ) -> M:
        """Fill a torch module in place, and return it; see ``Client.init_module_``."""
        return await self._call(
            calls.init_module(module, rules, device=device, reset_buffers=reset_buffers, **manifest)
        )

    async def save(
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
        """Draw a tensor, or many, into a file, or into files of a folder; see ``Client.save``.

        The event loop never waits for the disk.
        """
        calls.check_target(path, verify=verify, folder=max_shard_size is not None, shard=shard, config=config)
        spec = spec_of(what, scheme, fields)
        if max_shard_size is None:
            await self._save(path, spec, verify=verify)
            return
        content = await in_thread(config_of, config)
        limit, folder = bytes_of(max_shard_size), await in_thread(Folder, path)
        checkpoint = await self._call(calls.checkpoint(spec, limit, content))
        for name, each in checkpoint.chosen(shard).items():
            if verify or not await in_thread(folder.has, name, each):
                await self._save(folder.path / name, each, verify=verify)
        if shard is None:
            await in_thread(folder.finish, checkpoint.files.keys(), checkpoint.index, checkpoint.config)

    async def shards(
        self,
        what: ShapeLike | Described,
        scheme: SchemeName | str | None = None,
        *,
        max_shard_size: int | str,
        **fields: Unpack[FileFields],
    ) -> list[str]:
        """Return the names of the weight files that ``save`` writes; see ``Client.shards``."""
        call = calls.checkpoint(spec_of(what, scheme, fields), bytes_of(max_shard_size))
        return list((await self._call(call)).files)

    async def _save(self, path: Target, spec: FileSpec, *, verify: bool) -> None:
        """Save one file."""
        async with _held(opened, path) as output:
            await self._call(calls.save(spec, output.destination))
            if verify:
                async with _held(output.claim) as claim:
                    await self._call(calls.confirm(claim, output))
            await in_thread(output.commit)

    async def verify(self, path: str | os.PathLike[str]) -> Verdict:
        """Generate a safetensors file again from its metadata, and compare every byte; see ``Client.verify``."""
        async with _held(Claim, Path(path)) as claim:
            return await self._call(calls.verify(claim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._door.address!r})"

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of others close when it ends."""
        await self._door.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, call: Call[T]) -> T:
        """Make a call and return its result."""
        bar = Progress(call.label, self._progress if call.label else False)
        with closing(bar) as progress:
            unused = await self._door.answer(call, progress, self._deadline)
        result = call.result()
        call.cautions(unused, self._streams)
        return result


@asynccontextmanager
async def _held(make: Callable[..., C], *args: Any) -> AsyncIterator[C]:
    """Open and close a resource in a thread. It is closed after a cancellation too."""
    made: list[C] = []
    try:
        await in_thread(lambda: made.append(make(*args)))
        yield made[0]
    finally:
        with anyio.CancelScope(shield=True):
            for each in made:
                await anyio.to_thread.run_sync(each.close)
