"""Deterministic laws: constants and functions of the index. All generators draw them with this code."""

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu.positional import Positional
from weightwell_engine.generators.philox.cpu.table import Table
from weightwell_engine.laws import Constant, Lattice, Law, Values
from weightwell_engine.plan import Piece


def fill(piece: Piece, out: memoryview) -> None:
    """Write a piece of a constant, of a lattice or of given numbers into ``out``, rounded as torch rounds them."""
    drawn = _prepared(piece.tensor.law, piece.tensor.dtype)
    for part, place in piece.parts(out):
        drawn.fill(part, place)


def _prepared(law: Law, dtype: DType) -> Positional | Table:
    if isinstance(law, Values):
        return Table(law, dtype)
    if isinstance(law, Constant | Lattice):
        return Positional(law, dtype)
    raise TypeError(f"expected a law without random numbers, got {law!r}")
