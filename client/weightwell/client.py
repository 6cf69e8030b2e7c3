"""The synchronous client: every verb is a call, and a call is a transfer over httpx."""

import time
from collections.abc import Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self, SupportsIndex, TypeVar

import httpx

from weightwell import calls, wire
from weightwell.calls import Call
from weightwell.connection import TIMEOUT, http_options
from weightwell.exceptions import WeightwellError
from weightwell.output import Target, opened
from weightwell.progress import Progress
from weightwell.retry import Retry
from weightwell.slices import SliceLike
from weightwell.spec import ShapeLike, TensorSpec
from weightwell.transfer import Transfer

T = TypeVar("T")


class Client:
    """Draws initialized weight tensors from a Weightwell server.

    A client may be shared by threads. Close it, or use it in a ``with`` statement.

    ``base_url``: the server's address; without one, ``$WEIGHTWELL_URL``, or else ``http://127.0.0.1:8000``.
    ``timeout``: seconds of silence that are borne, or an ``httpx.Timeout``.
    ``headers``, ``auth``, ``transport``: as in ``httpx.Client``.
    ``retries``: failures in a row, with no byte gained between them, that are tried again (0 for none). Every request
    is safe to repeat, and a broken body goes on where it broke.
    ``progress``: True for a bar on every tensor, False for none, None for bodies of 64 MiB and more where somebody is
    looking: on a terminal or in a notebook.

    Every method raises the exceptions of ``weightwell.exceptions``, all of which are ``WeightwellError``, and TypeError
    or ValueError for an argument that cannot be sent at all.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float | httpx.Timeout | None = TIMEOUT,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | httpx.Auth | None = None,
        transport: httpx.BaseTransport | None = None,
        retries: int = 5,
        progress: bool | None = None,
    ):
        options = http_options(base_url, timeout=timeout, headers=headers, auth=auth, transport=transport)
        self._http = httpx.Client(**options)
        self._retry = Retry(retries)
        self._progress = progress
        self._sleep = time.sleep

    def gain(self, nonlinearity: str, param: float | None = None, *, source: str | None = None) -> float:
        """Return the gain that a nonlinearity asks for: ``torch.nn.init.calculate_gain``, bit for bit.

        ``param`` is the negative slope of ``leaky_relu``. ``source="quadrature"`` computes 1/sqrt(E[f(z)^2]) for
        z ~ N(0, 1) instead, for any activation that torch has.
        """
        return self._call(calls.gain(nonlinearity, param, source))

    def gains(self, *, source: str | None = None) -> dict[str, float]:
        """Return every gain that the server knows, by the name of its nonlinearity."""
        return self._call(calls.gains(source))

    def schemes(self) -> Any:
        """Return the catalogue of schemes, as the server tells it: names, formulas, parameters, references."""
        return self._call(calls.schemes())

    def init(
        self,
        shape: ShapeLike,
        scheme: str,
        *,
        seed: SupportsIndex = 0,
        dtype: object = "float32",
        name: str | None = None,
        generator: str | None = None,
        slice: SliceLike | None = None,  # noqa: A002 - the field's name
        framework: Literal["torch", "numpy"] | None = None,
        device: object = None,
        **parameters: Any,
    ) -> Any:
        """Draw a tensor and return it: a ``torch.Tensor``, or a ``numpy.ndarray`` without torch.

        ``shape``: the whole tensor's, ``(out, in, ...)`` as torch has it; the fans are counted on it.
        ``scheme``: a name of the catalogue (``schemes()``), such as ``"kaiming_normal"``; its ``parameters`` bear
        torch's names and defaults: ``a=0.2``, ``gain=2**0.5``, ``mode="fan_out"``.
        ``seed``: an integer in [0, 2^64 - 1].
        ``dtype``: a name, a ``torch.dtype`` or a numpy dtype.
        ``name``: the tensor's name, part of what it is drawn from; the server calls it ``weight`` if you do not.
        ``generator``: ``"philox"`` or ``"torch"``; the server's default if you do not say.
        ``slice``: the part to draw, as numpy slices: ``np.s_[0:128]`` or ``"0:128,:"``.
        ``framework``: ``"torch"`` or ``"numpy"``, and ``device`` the one that torch moves the tensor to.
        """
        spec = TensorSpec.of(
            shape,
            scheme,
            seed=seed,
            dtype=dtype,
            name=name,
            generator=generator,
            slice=slice,
            **parameters,
        )
        return self._call(calls.init(spec, framework, device))

    def save(self, path: Target, shape: ShapeLike, scheme: str, **spec: Any) -> None:
        """Draw a tensor into a safetensors file, byte for byte the server's.

        ``path`` becomes the whole file or is left as it was; or it is a binary file, which is written to. ``spec`` is
        what ``init`` takes to describe the tensor: ``seed``, ``dtype``, ``name``, ``generator``, ``slice`` and the
        scheme's parameters.
        """
        tensor = TensorSpec.of(shape, scheme, **spec)
        output = opened(path)
        try:
            self._call(calls.save(tensor, output.file))
            output.commit()
        finally:
            output.discard()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[T]) -> T:
        """Make a call, with as many attempts as it takes."""
        with closing(Progress(call.label, self._progress if call.label else False)) as progress:
            transfer = Transfer(call.request, call.destination, self._retry, progress)
            while not transfer.complete:
                try:
                    self._attempt(transfer)
                except (httpx.HTTPError, WeightwellError) as error:
                    self._sleep(transfer.wait_after(error))
        return call.result()

    def _attempt(self, transfer: Transfer) -> None:
        """Send the next request of a transfer and receive what it brings."""
        with self._http.stream(**transfer.message) as response:
            if response.is_error:
                response.read()
            transfer.begin(response)
            wire.receive(response, transfer)
        transfer.end()
