"""The asynchronous client: the verbs of ``Client``, for asyncio and trio."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
import anyio.to_thread
import httpx

from weightwell import calls, wire
from weightwell.calls import Call
from weightwell.connection import TIMEOUT, http_options
from weightwell.exceptions import WeightwellError
from weightwell.output import Target, opened
from weightwell.progress import Progress
from weightwell.retry import Retry
from weightwell.spec import ShapeLike, TensorSpec
from weightwell.transfer import Transfer
from weightwell.wire import Place

T = TypeVar("T")


class AsyncClient:
    """Draws initialized weight tensors from a Weightwell server, in an event loop.

    The arguments and the verbs are those of ``Client``, which describes them; every verb is awaited. Leave it with
    ``aclose()``, or use it in an ``async with`` statement.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float | httpx.Timeout | None = TIMEOUT,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        retries: int = 5,
        progress: bool | None = None,
    ):
        options = http_options(base_url, timeout=timeout, headers=headers, auth=auth, transport=transport)
        self._http = httpx.AsyncClient(**options)
        self._retry = Retry(retries)
        self._progress = progress
        self._sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def gain(self, nonlinearity: str, param: float | None = None, *, source: str | None = None) -> float:
        """Return the gain that a nonlinearity asks for; see ``Client.gain``."""
        return await self._call(calls.gain(nonlinearity, param, source))

    async def gains(self, *, source: str | None = None) -> dict[str, float]:
        """Return every gain that the server knows, by the name of its nonlinearity."""
        return await self._call(calls.gains(source))

    async def schemes(self) -> Any:
        """Return the catalogue of schemes, as the server tells it."""
        return await self._call(calls.schemes())

    async def init(
        self,
        shape: ShapeLike,
        scheme: str,
        *,
        framework: Literal["torch", "numpy"] | None = None,
        device: object = None,
        **spec: Any,
    ) -> Any:
        """Draw a tensor and return it; ``Client.init`` says what ``spec`` may hold."""
        return await self._call(calls.init(TensorSpec.of(shape, scheme, **spec), framework, device))

    async def save(self, path: Target, shape: ShapeLike, scheme: str, **spec: Any) -> None:
        """Draw a tensor into a safetensors file; see ``Client.save``. The event loop never waits for the disk."""
        tensor = TensorSpec.of(shape, scheme, **spec)
        output = opened(path)
        try:
            await self._call(calls.save(tensor, output.file))
            await anyio.to_thread.run_sync(output.commit)
        finally:
            output.discard()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, call: Call[T]) -> T:
        """Make a call, with as many attempts as it takes."""
        place = anyio.to_thread.run_sync if call.writes else _at_once
        with closing(Progress(call.label, self._progress if call.label else False)) as progress:
            transfer = Transfer(call.request, call.destination, self._retry, progress)
            while not transfer.complete:
                try:
                    await self._attempt(transfer, place)
                except (httpx.HTTPError, WeightwellError) as error:
                    await self._sleep(transfer.wait_after(error))
        return call.result()

    async def _attempt(self, transfer: Transfer, place: Place) -> None:
        """Send the next request of a transfer and receive what it brings."""
        async with self._http.stream(**transfer.message) as response:
            if response.is_error:
                await response.aread()
            transfer.begin(response)
            await wire.areceive(response, transfer, place)
        await place(transfer.end)


async def _at_once(function: Callable[..., None], *args: Any) -> None:
    """Call a function that never waits, where one that may would be called in a thread."""
    function(*args)
