"""Overlays on the GPU: parts of tensors are drawn into memory of their own, and then copied over what they replace.

A part is drawn as a tensor of its own, with all elements side by side. Where they belong is rows of a rectangle.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from weightwell_engine.generators.philox.cuda.launches import INTEGERS, on
from weightwell_engine.generators.philox.cuda.laws import Part, fill
from weightwell_engine.plan import Layer, Piece
from weightwell_engine.regions import Runs, indices

# Parts begin at multiples of this many bytes of their memory: those of the four elements that are drawn together.
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Over:
    """A part of a tensor, of which the elements from ``start`` on are at the bytes from ``offset`` on."""

    layer: Layer
    start: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes that the part takes in memory of its own."""
        return self.layer.piece.nbytes + -self.layer.piece.nbytes % _ALIGNMENT


def write_over(over: Sequence[Over], out: torch.Tensor, drawn: Callable[[Piece, int], Iterable[Part]]) -> None:
    """Write parts over ``out`` (n, uint8), in order, with memory for as many bytes as ``out`` has, or a few more.

    ``drawn`` says what draws a piece to the bytes from an offset on.
    """
    for together in _batches(over, out.numel()):
        memory = torch.empty(sum(each.nbytes for each in together), dtype=torch.uint8, device=out.device)
        offset, parts = 0, list[Part]()
        for each in together:
            parts += drawn(each.layer.piece, offset)
            offset += each.nbytes
        fill(parts, memory)
        with on(out.device):
            for each in together:
                _copy(each, memory, out)
                memory = memory[each.nbytes :]


def _batches(over: Iterable[Over], nbytes: int) -> Iterator[list[Over]]:
    """Yield parts that together take at most so many bytes, or single ones."""
    batch, taken = list[Over](), 0
    for each in over:
        if batch and taken + each.nbytes > nbytes:
            yield batch
            batch, taken = [], 0
        batch.append(each)
        taken += each.nbytes
    yield batch


def _copy(over: Over, drawn: torch.Tensor, out: torch.Tensor) -> None:
    """Copy a part, which is at the beginning of ``drawn``, to its places in ``out``."""
    piece, size = over.layer.piece, over.layer.piece.tensor.dtype.itemsize
    typed = INTEGERS[size]
    elements = out[: out.numel() // size * size].view(typed)
    source = drawn[: piece.nbytes].view(typed)
    # Where the element 0 of the tensor would be. as_strided counts from the start of the storage of ``out``.
    first = over.offset // size - over.start
    begin = elements.storage_offset()
    for at in over.layer.box.parts(piece.start, piece.stop):
        if isinstance(at, Runs):
            rows = elements.as_strided((at.count, at.length), (at.stride, 1), begin + first + at.first)
            rows.copy_(source[: at.size].view(at.count, at.length))
        else:
            elements[torch.from_numpy(indices(at) + first).to(out.device)] = source[: at.size]
        source = source[at.size :]
