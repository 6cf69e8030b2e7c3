"""Noise: the data of a file is added to a tensor that exists, one block at a time, without a second copy of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from weightwell.exceptions import InvalidFile
from weightwell.models.tensors import InPlace, TorchInPlace
from weightwell.transfers.destinations import DataDestination, blocks

if TYPE_CHECKING:
    import numpy as np
    import torch

Index = tuple[int | slice, ...]


class Addition(DataDestination):
    """Adds ``alpha`` times the data to a tensor, in order. Every element is changed once, whatever breaks in between.

    Values are computed in float32, or float64 for float64, and rounded to the dtype of the tensor: the product, then
    the sum.
    """

    def __init__(self, place: InPlace, alpha: float):
        self._place = place
        self._alpha = alpha
        self._flat: Any = place.flat()
        self._add = _add_torch if isinstance(place, TorchInPlace) else _add_numpy
        self._head = b""
        self._done = 0  # elements that have been changed

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[tuple[int, int]]:
        """Return the bytes that have been added; raise ``InvalidFile`` if they belong to another file."""
        if self._done and head != self._head:
            raise InvalidFile("the file on the server has changed, and a part of the old one has been added already")
        self._head = head
        return [(0, self._done * self._place.dtype.itemsize)] if self._done else ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield buffers that are added as they fill; bytes that have been added before are ignored."""
        for buffer in blocks(stop - start):
            yield buffer
            self._take(start, buffer)
            start += len(buffer)

    def commit(self) -> Any:
        """Return the tensor."""
        return self._place.commit()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add a note to every error that says how many elements have been changed."""
        try:
            yield
        except BaseException as error:
            if self._done:
                error.add_note(
                    f"{self._done} of {prod(self._place.extent)} elements of the tensor have been changed already: the "
                    "first ones, in the order of their indices. Restore the tensor before you try again"
                )
            raise

    def _take(self, start: int, buffer: memoryview) -> None:
        """Add the bytes of a buffer that begins at ``start``, from the first element that has not been changed."""
        size = self._place.dtype.itemsize
        stop = start + len(buffer)
        if stop <= (begin := self._done * size):
            return
        if start > begin:
            raise InvalidFile(f"expected the data from byte {begin} on, got byte {start}")
        data = buffer[begin - start :]
        for index in boxes(self._flat.shape, self._done, stop // size):
            here = self._flat[index]
            count = prod(here.shape)
            self._add(here, data[: count * size], self._alpha)
            data = data[count * size :]
            self._done += count


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


def _add_torch(here: "torch.Tensor", data: memoryview, alpha: float) -> None:
    """Add ``alpha`` times the elements in ``data`` to a torch tensor."""
    import torch

    wide = torch.float64 if here.dtype == torch.float64 else torch.float32
    noise = torch.frombuffer(data, dtype=here.dtype).view(here.shape).to(here.device)
    with torch.no_grad():
        noise = noise.to(wide)
        if alpha != 1:
            noise.mul_(alpha)
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
