"""The asynchronous client: the methods of ``Client``, for asyncio and trio."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, Unpack, overload

import anyio
import anyio.to_thread
import httpx

from weightwell import calls
from weightwell.calls import Call
from weightwell.connection import CONNECTIONS, TIMEOUT, Settings, without_credentials
from weightwell.exceptions import TimedOut
from weightwell.files.comparison import Claim, Verdict
from weightwell.files.output import Target, opened
from weightwell.forms import Described, manifest_of, spec_of
from weightwell.literals import FileFields, FrameworkName, GainSource, SchemeName, TensorFields
from weightwell.models.filling import Reset
from weightwell.models.manifest import Manifest
from weightwell.models.plans import Plan
from weightwell.models.recipes import Rules
from weightwell.pools import AsyncPool
from weightwell.spec import ManifestSpec, ShapeLike, TensorSpec
from weightwell.streams import Streams
from weightwell.tracebacks import short_tracebacks
from weightwell.transfers.driver import abring
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Retry

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")
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
        timeout: float | httpx.Timeout | None = TIMEOUT,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport] | None = None,
        wait: float | None = None,
        progress: bool | None = None,
        connections: int = CONNECTIONS,
        deadline: float | None = None,
    ):
        settings = Settings.of(base_url, timeout=timeout, headers=headers, auth=auth, transport=transport)
        self._pool = AsyncPool(settings)
        self._retry = Retry(wait)
        self._progress = progress
        self._connections = connections
        self._deadline = float("inf") if deadline is None else deadline
        self._streams = Streams()
        self._sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def gain(
        self, nonlinearity: str, param: float | None = None, *, source: GainSource | str | None = None
    ) -> float:
        """Return the gain for a nonlinearity; see ``Client.gain``."""
        return await self._call(calls.gain(nonlinearity, param, source))

    async def gains(self, *, source: GainSource | str | None = None) -> dict[str, float]:
        """Return every gain that the server knows, by the name of its nonlinearity."""
        return await self._call(calls.gains(source))

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
        **fields: Any,
    ) -> Any:
        """Draw a tensor and return it; ``Client.init`` describes the ``fields``."""
        return await self._call(calls.init(TensorSpec.of(shape, scheme, **fields), framework, device))

    async def plan(
        self, what: ShapeLike | Described, scheme: SchemeName | str | None = None, **fields: Unpack[FileFields]
    ) -> Plan:
        """Return the size, the URL and the distributions of a file without drawing it; see ``Client.plan``."""
        return await self._call(calls.plan(spec_of(what, scheme, fields), self._pool.settings.address))

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
        **fields: Unpack[FileFields],
    ) -> None:
        """Draw a tensor, or many, into a file; see ``Client.save``. The event loop never waits for the disk."""
        calls.check_target(path, verify=verify)
        spec = spec_of(what, scheme, fields)
        async with _held(opened, path) as output:
            await self._call(calls.save(spec, output.destination))
            if verify:
                async with _held(output.claim) as claim:
                    await self._call(calls.confirm(claim, output))
            await _in_thread(output.commit)

    async def verify(self, path: str | os.PathLike[str]) -> Verdict:
        """Generate a safetensors file again from its metadata, and compare every byte; see ``Client.verify``."""
        async with _held(Claim, Path(path)) as claim:
            return await self._call(calls.verify(claim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_credentials(self._pool.settings.base_url)!r})"

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of others close when it ends."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, call: Call[T]) -> T:
        """Make a call and return its result."""
        place = _in_thread if call.writes else _at_once
        bar = Progress(call.label, self._progress if call.label else False)
        async with self._pool.http() as http:
            with closing(bar) as progress, anyio.move_on_after(self._deadline) as scope:
                transfer = call.transfer(self._retry, progress, self._connections, self._deadline)
                await abring(http, transfer, place, self._sleep)
        if scope.cancelled_caught:
            raise TimedOut("the call took longer than its deadline= allows")
        result = call.result()
        call.cautions(transfer.unused_rules, self._streams)
        return result


@asynccontextmanager
async def _held(make: Callable[..., C], *args: Any) -> AsyncIterator[C]:
    """Open and close a resource in a thread. It is closed after a cancellation too."""
    made: list[C] = []
    try:
        await _in_thread(lambda: made.append(make(*args)))
        yield made[0]
    finally:
        with anyio.CancelScope(shield=True):
            for each in made:
                await anyio.to_thread.run_sync(each.close)


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread. The function has ended when this returns or raises."""
    turn, over = Lock(), False
    results: list[T] = []

    def call() -> None:
        with turn:
            if not over:
                results.append(function(*args))

    def end() -> None:
        nonlocal over
        with turn:
            over = True

    try:
        await anyio.to_thread.run_sync(call)
    except anyio.get_cancelled_exc_class():
        # anyio waits for its threads after its own cancellations, but not after asyncio's (wait_for, Task.cancel).
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(end)
        raise
    return results[0]


async def _at_once(function: Callable[..., T], *args: Any) -> T:
    """Call a function directly. Used in place of ``_in_thread`` for functions that do not block."""
    return function(*args)
