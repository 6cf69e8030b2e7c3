"""Noise: the data of a file is added to a tensor that exists, one block at a time, without a second copy of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

from weightwell.exceptions import InvalidFile
from weightwell.models import pieces
from weightwell.models.tensors import InPlace, TorchInPlace
from weightwell.transfers.destinations import DataDestination, blocks
from weightwell.transfers.spans import Span, missing

if TYPE_CHECKING:
    import numpy as np
    import torch

DEVICE_BLOCK = 16 << 20  # bytes of noise on a GPU for each thread that draws

Index = tuple[int | slice, ...]


class Addition(DataDestination):
    """Adds ``alpha`` times the data to a tensor. Every element is changed once, whatever breaks in between.

    Values are computed in float32, or float64 for float64, and rounded to the dtype of the tensor: the product, then
    the sum. Several threads may add ranges of whole elements. Ranges of a body may end within an element, so one
    connection brings the data.
    """

    parallel_elements = True

    def __init__(self, place: InPlace, alpha: float):
        self._place = place
        self._alpha = alpha
        self._flat: Any = place.flat()
        self._add: Callable[[Any, Any, float], None] = _add_torch if isinstance(place, TorchInPlace) else _add_numpy
        self._head = b""
        self._lock = Lock()
        self._stops: dict[int, int] = {}  # by their starts: the ranges of elements that have been changed
        self._starts: dict[int, int] = {}  # by their stops

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Return the bytes that have been added; raise ``InvalidFile`` if they belong to another file."""
        if self._stops and head != self._head:
            raise InvalidFile("the file on the server has changed, and a part of the old one has been added already")
        self._head = head
        size = self._place.dtype.itemsize
        return [(start * size, stop * size) for start, stop in self._stops.items()]

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield buffers that are added as they fill; bytes that have been added before are ignored."""
        for buffer in blocks(stop - start):
            yield buffer
            self._take(start, buffer)
            start += len(buffer)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return memory of the tensor's GPU, which is added when it is full; None for memory of the host."""
        if start == stop or not isinstance(self._place, TorchInPlace) or self._flat.device.type != pieces.GPU:
            return None
        return self._added_on_device(start, stop)

    def _added_on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor]":
        import torch

        block = torch.empty(min(DEVICE_BLOCK, stop - start), dtype=torch.uint8, device=self._flat.device)
        for begin in range(start, stop, DEVICE_BLOCK):
            memory = block[: stop - begin]
            yield memory
            self._take(begin, memory)

    def commit(self) -> Any:
        """Return the tensor."""
        return self._place.commit()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add a note to every error that says how many elements have been changed."""
        try:
            yield
        except BaseException as error:
            if done := sum(stop - start for start, stop in self._stops.items()):
                which = ": the first ones, in the order of their indices" if [*self._stops] == [0] else ""
                error.add_note(
                    f"{done} of {prod(self._place.extent)} elements of the tensor have been changed already{which}. "
                    "Restore the tensor before you try again"
                )
            raise

    def _take(self, start: int, buffer: "memoryview | torch.Tensor") -> None:
        """Add the bytes of a buffer, or of a GPU's memory, from ``start`` on, except those that were added before."""
        size = self._place.dtype.itemsize
        first = start // size
        with self._lock:
            gaps = [*missing(self._stops.items(), first, first + len(buffer) // size)]
        step = self._place.step
        for begin, end in gaps:
            for place in range(begin, end, step):
                self._change(place, min(place + step, end), buffer[(place - first) * size :])

    def _change(self, start: int, stop: int, data: "memoryview | torch.Tensor") -> None:
        """Add the first bytes of ``data`` to the elements ``[start, stop)``."""
        for index in boxes(self._flat.shape, start, stop):
            here = self._flat[index]
            nbytes = prod(here.shape) * self._place.dtype.itemsize
            self._add(here, data[:nbytes], self._alpha)
            self._note(start, start + prod(here.shape))
            start, data = start + prod(here.shape), data[nbytes:]

    def _note(self, start: int, stop: int) -> None:
        """Note that elements have been changed."""
        with self._lock:
            start, stop = self._starts.pop(start, start), self._stops.pop(stop, stop)
            self._stops[start], self._starts[stop] = stop, start


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Index]:
    """Yield the indices of boxes that have the elements ``[start, stop)`` of a tensor in row-major order.

    There are fewer than two boxes for each dimension. ``shape`` has at least one dimension.
    """
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row  # the whole rows
    if len(shape) == 1:
        yield (slice(start, stop),)
    elif first > last:
        yield from _in_row(shape, last, start, stop)
    else:
        yield from _in_row(shape, first - 1, start, first * row)
        if first < last:
            yield (slice(first, last),)
        yield from _in_row(shape, last, last * row, stop)


def _in_row(shape: Sequence[int], index: int, start: int, stop: int) -> Iterator[Index]:
    """Yield the boxes of the elements ``[start, stop)``, which are in one row."""
    if start < stop:
        origin = index * prod(shape[1:])
        for box in boxes(shape[1:], start - origin, stop - origin):
            yield (index, *box)


def _add_torch(here: "torch.Tensor", data: "memoryview | torch.Tensor", alpha: float) -> None:
    """Add ``alpha`` times the elements in ``data`` to a torch tensor."""
    import torch

    if isinstance(data, memoryview):
        data = torch.frombuffer(data, dtype=torch.uint8).to(here.device)
    noise = data.view(here.dtype).view(here.shape)
    with torch.no_grad():
        if abs(alpha) == 1 and here.dtype.itemsize > 1:
            here.add_(noise, alpha=alpha)  # the product is exact, and torch adds 16-bit numbers in float32
            return
        wide = torch.float64 if here.dtype == torch.float64 else torch.float32
        noise = noise.to(wide).mul_(alpha)
        if here.dtype == wide:
            here.add_(noise)
        else:
            here.copy_(noise.add_(here.to(wide)))


def _add_numpy(here: "np.ndarray[Any, Any]", data: memoryview, alpha: float) -> None:
    """Add ``alpha`` times the elements in ``data`` to an array."""
    import numpy as np

    wide = np.float64 if here.dtype == np.float64 else np.float32
    drawn = np.frombuffer(data, dtype=here.dtype.newbyteorder("=")).reshape(here.shape)
    noise: np.ndarray[Any, Any] = drawn.astype(wide, copy=False)
    if alpha != 1:
        np.multiply(noise, wide(alpha), out=noise)
    if here.dtype == wide:
        np.add(here, noise, out=here)
    else:
        np.add(noise, here.astype(wide), out=noise)
        here[...] = noise.astype(here.dtype)
