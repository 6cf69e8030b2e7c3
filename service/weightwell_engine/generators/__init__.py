"""Generators: what turns laws into numbers.

A generator is opened for one file and then called, from any thread, for pieces of its tensors. All that it may depend
on is the plan: what a piece holds never depends on which other pieces were drawn, or when.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from weightwell_engine.plan import Piece, Plan


class DrawingStopped(Exception):
    """The drawing was closed while a piece was being drawn."""


class Drawing(Protocol):
    """One file in the drawing."""

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, little-endian, one piece after the other, into ``out``, which they fill.

        ``out`` begins at an address that is a multiple of 8.
        """

    def close(self) -> None:
        """Stop drawing: a ``fill`` under way may raise ``DrawingStopped`` instead of going on."""


class Generator(Protocol):
    """Draws the numbers of a plan."""

    name: str
    """What a spec calls it."""

    identity: str
    """What its numbers depend on beside the spec: the algorithm, its version, and whatever else there is."""

    portable: bool
    """Whether every machine draws the same numbers, for ever."""

    chunk: int
    """How many bytes of a file are best drawn at once; a multiple of 512."""

    concurrency: int
    """How many chunks of one file can be drawn at once; 1 if they have to come in the order of the file."""

    def warm_up(self) -> None:
        """Do now what would otherwise delay the first drawing; raise if this generator cannot be trusted here."""

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a plan that this generator cannot draw."""

    def instant(self, plan: Plan) -> bool:
        """Return whether any byte of a small plan is drawn within a fraction of a millisecond, without waiting."""

    def footprint(self, plan: Plan) -> int:
        """Return how many bytes of its device's memory drawing takes, besides the chunks, at the most."""

    def kept(self, plan: Plan) -> int:
        """Return how many bytes of the footprint stay between the chunks; the rest is in use while one is drawn."""

    def cost(self, piece: Piece) -> int:
        """Return about how many nanoseconds one thread takes to draw a piece, once what it needs is there."""

    def before(self, piece: Piece) -> int:
        """Return about how many nanoseconds it takes to draw what must be there before a piece, at the most."""

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Draw what must be there before a piece, and pause about every millisecond. Not to do it costs nothing."""

    def allocate(self, nbytes: int) -> memoryview:
        """Return memory of any value that this generator fills without another copy; aligned to 8 bytes."""

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file. Cheap: the expensive work happens in the first ``fill``."""


def places(pieces: Sequence[Piece], memory: memoryview) -> Iterator[tuple[Piece, memoryview]]:
    """Yield each piece with its part of ``memory``, which has room for all of them, one after the other."""
    begin = 0
    for piece in pieces:
        yield piece, memory[begin : begin + piece.nbytes]
        begin += piece.nbytes
