"""Deterministic laws: constants and functions of the index. All generators draw them with this code."""

from weightwell_engine.generators.philox.cpu.early import positional
from weightwell_engine.laws import Constant, Lattice, Values
from weightwell_engine.plan import Piece


def fill(piece: Piece, out: memoryview) -> None:
    """Write a piece of a constant, of a lattice or of given numbers into ``out``, rounded as torch rounds them."""
    law = piece.tensor.law
    if not isinstance(law, Constant | Lattice | Values):
        raise TypeError(f"expected a law without random numbers, got {law!r}")
    drawn = positional(law, piece.tensor.dtype)
    for part, place in piece.parts(out):
        drawn.fill(part, place)
