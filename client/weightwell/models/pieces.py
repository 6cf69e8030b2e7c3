"""Pieces: the memory of several tensors, addressed by position in the data of one file.

On a CPU, the socket is read straight into a tensor's memory. For other devices, blocks of host memory are filled and
copied.
"""

import ctypes
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 4 << 20  # bytes of a block of host memory
GPU = "cuda"  # the type of the devices on which the engine can draw


@dataclass(frozen=True, slots=True)
class Piece:
    """One contiguous tensor, whose elements are the data bytes ``[start, stop)`` of a file."""

    start: int
    stop: int
    tensor: "torch.Tensor"

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield writable memory for the bytes ``[start, stop)`` of the tensor."""
        if self.tensor.device.type == "cpu":
            yield host_memory(self.tensor)[start:stop]
        else:
            yield from self.staged(start, stop)

    def bytes(self) -> "torch.Tensor":
        """Return the memory of the tensor as uint8, of one dimension."""
        import torch

        return self.tensor.reshape(-1).view(torch.uint8)

    def staged(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield host memory, which is copied to the tensor when it is full."""
        import torch

        there = self.bytes()
        here = torch.empty(min(BLOCK, stop - start), dtype=torch.uint8, pin_memory=self.tensor.is_cuda)
        for begin in range(start, stop, BLOCK):
            count = min(BLOCK, stop - begin)
            yield host_memory(here)[:count]
            there[begin : begin + count].copy_(here[:count])


class Pieces:
    """The data of a file, in pieces that follow one another without gaps."""

    def __init__(self, pieces: Iterable[Piece]):
        self._pieces = sorted((piece for piece in pieces if piece.start < piece.stop), key=lambda piece: piece.start)

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield writable memory for the data bytes ``[start, stop)``, in order."""
        index = bisect_right(self._pieces, start, key=lambda piece: piece.stop)
        while start < stop:
            piece = self._pieces[index]
            end = min(stop, piece.stop)
            yield from piece.buffers(start - piece.start, end - piece.start)
            start, index = end, index + 1

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memory (n, uint8) of a GPU for the bytes ``[start, stop)`` of one tensor; else None."""
        index = bisect_right(self._pieces, start, key=lambda piece: piece.stop)
        if start == stop or (piece := self._pieces[index]).tensor.device.type != GPU:
            return None
        return iter((piece.bytes()[start - piece.start : stop - piece.start],))


def host_memory(tensor: "torch.Tensor") -> memoryview:
    """Return the memory of a contiguous CPU tensor. The caller must keep the tensor alive while it is written."""
    # numpy need not be installed, and does not know bfloat16.
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")
