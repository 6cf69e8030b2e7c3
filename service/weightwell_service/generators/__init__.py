"""Generators: what turns laws into numbers.

A generator is opened for one file and then called, from any thread, for pieces of its tensors. All that it may depend
on is the plan: what a piece holds never depends on which other pieces were drawn, or when.
"""

from typing import Protocol

from weightwell_service.plan import Piece, Plan


class DrawingStopped(Exception):
    """The reader went away while a piece was being drawn."""


class Drawing(Protocol):
    """One file in the drawing."""

    def fill(self, piece: Piece, out: memoryview) -> None:
        """Write the elements of a piece, little-endian, into ``out``, which is exactly ``piece.nbytes`` long."""

    def close(self) -> None:
        """Take note that nobody wants the rest: a ``fill`` under way may raise instead of going on."""


class Generator(Protocol):
    """Draws the numbers of a plan."""

    name: str
    """What a spec calls it."""

    identity: str
    """What its numbers depend on beside the spec: the algorithm, its version, and whatever else there is."""

    portable: bool
    """Whether every machine draws the same numbers, for ever."""

    concurrency: int
    """How many pieces of one file can be drawn at once; 1 if they have to come in the order of the file."""

    def warm_up(self) -> None:
        """Do now what would otherwise delay the first drawing; raise if this generator cannot be trusted here."""

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` for a plan that this generator cannot draw."""

    def footprint(self, plan: Plan) -> int:
        """Return how many bytes must be kept in memory for as long as the plan is being drawn."""

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file. Cheap: whatever takes time happens in the first ``fill``."""
