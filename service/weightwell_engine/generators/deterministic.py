"""Deterministic laws: constants, and functions of the index. They are the same for all generators."""

from weightwell_engine.generators.philox.cpu import laws as cpu
from weightwell_engine.plan import Piece


def fill(piece: Piece, out: memoryview) -> None:
    """Write a piece of a constant or of a lattice into ``out``: its values, rounded as torch rounds them."""
    tensor = piece.tensor
    prepared = cpu.prepare(tensor.law, tensor.dtype, tensor.seed, tensor.name)
    for runs, part in piece.parts(out):
        prepared.fill(runs, part)
