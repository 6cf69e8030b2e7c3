"""Generators: they draw numbers from laws.

You open a generator for one file, and then call it for pieces of the tensors, from any thread. The content of a piece
depends on the plan alone. It does not depend on the other pieces, or on the order of the calls.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from weightwell_engine.plan import Piece, Plan


class DrawingStopped(Exception):
    """The drawing was closed while a piece was being drawn."""


class Drawing(Protocol):
    """The state of drawing one file."""

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, little-endian, one piece after the other, into ``out``, which they fill.

        ``out`` begins at an address that is a multiple of 8, or of the item size if there is one piece.
        """

    def close(self) -> None:
        """Stop drawing: a ``fill`` under way may raise ``DrawingStopped`` instead of going on."""


@runtime_checkable
class DeviceDrawing(Protocol):
    """A drawing that also writes into memory of its device, without a copy on the host."""

    def fill_on_device(self, piece: Piece, out: Any) -> None:
        """Write the elements of a piece into ``out`` (n, uint8), a tensor of torch on the device, which they fill."""


class Generator(Protocol):
    """Draws the numbers of a plan."""

    name: str
    """Its name in a spec."""

    identity: str
    """A text with everything, except the spec, that its numbers depend on: the algorithm, its version and so on."""

    portable: bool
    """Whether the numbers are the same on every machine and in every later version."""

    chunk: int
    """The best chunk size in bytes; a multiple of 512."""

    concurrency: int
    """The number of chunks of one file that can be drawn at once; 1 if chunks must be drawn in order."""

    def warm_up(self) -> None:
        """Do the work that would delay the first drawing; raise ``GeneratorUnsound`` if a self-check fails."""

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a plan that this generator cannot draw."""

    def instant(self, plan: Plan) -> bool:
        """Return whether a small plan is drawn within a fraction of a millisecond, without blocking."""

    def footprint(self, plan: Plan) -> int:
        """Return the peak bytes of device memory for drawing, not counting the chunks."""

    def kept(self, plan: Plan) -> int:
        """Return the bytes of the footprint that stay allocated between chunks; the rest is temporary."""

    def cost(self, piece: Piece) -> int:
        """Estimate the time to draw a piece in one thread, in nanoseconds, after ``approach``."""

    def before(self, piece: Piece) -> int:
        """Estimate the longest time to draw the numbers before a piece that it needs, in nanoseconds."""

    def whole(self, piece: Piece) -> int:
        """Estimate the time to draw the whole matrices of a piece, in nanoseconds; 0 for independent elements."""

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Prepare a piece, for example draw the numbers before it. Yields about every millisecond. This is optional."""

    def allocate(self, nbytes: int) -> memoryview:
        """Return uninitialized memory, aligned to 8 bytes, that this generator fills without another copy."""

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file. This is cheap: the expensive work happens in the first ``fill``."""


def places(pieces: Sequence[Piece], memory: memoryview) -> Iterator[tuple[Piece, memoryview]]:
    """Yield each piece with its part of ``memory``. The parts follow each other and fill the memory."""
    begin = 0
    for piece in pieces:
        yield piece, memory[begin : begin + piece.nbytes]
        begin += piece.nbytes
