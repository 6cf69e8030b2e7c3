"""Deterministic laws: constants and functions of the index. All generators draw them with this code."""

from weightwell_engine.generators.philox.cpu.positional import Positional
from weightwell_engine.laws import Constant, Lattice
from weightwell_engine.plan import Piece


def fill(piece: Piece, out: memoryview) -> None:
    """Write a piece of a constant or of a lattice into ``out``, with values rounded as in torch."""
    law = piece.tensor.law
    if not isinstance(law, Constant | Lattice):
        raise TypeError(f"expected a Constant or a Lattice, got {law!r}")
    drawn = Positional(law, piece.tensor.dtype)
    for part, place in piece.parts(out):
        drawn.fill(part, place)
