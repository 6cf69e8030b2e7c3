"""The laws that need no generator: constants, and functions of the index."""

from typing import Any

import numpy as np
import torch

from weightwell_service.dtypes import DType
from weightwell_service.laws import Constant, Lattice, Law
from weightwell_service.plan import Piece
from weightwell_service.regions import Runs

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def is_deterministic(law: Law) -> bool:
    """Whether ``fill`` of this module can draw the law."""
    return isinstance(law, Constant | Lattice)


def fill(piece: Piece, out: memoryview) -> None:
    """Write a piece of a constant or of a lattice into ``out``."""
    law, dtype = piece.tensor.law, piece.tensor.dtype
    words = np.frombuffer(out, _WORDS[dtype.itemsize])
    if isinstance(law, Constant):
        words[:] = _word(law.value, dtype)
    elif isinstance(law, Lattice):
        words[:] = 0
        word, filled = _word(law.value, dtype), 0
        for runs in piece.tensor.region.runs(piece.start, piece.stop):
            _set_points(law, runs, words[filled : filled + runs.size], word)
            filled += runs.size


def _set_points(law: Lattice, runs: Runs, words: Any, word: Any) -> None:
    for row in range(runs.count):
        first = runs.first + row * runs.stride
        for points in law.within(first, first + runs.length):
            shift = row * runs.length - first
            words[points.start + shift : points.stop + shift : points.step] = word


def _word(value: float, dtype: DType) -> Any:
    """Return the bit pattern of a value, rounded to the nearest even as torch does: narrow dtypes by way of float32."""
    scalar = torch.tensor([value], dtype=torch.float64).to(getattr(torch, dtype.name))
    return np.frombuffer(scalar.view(torch.uint8).numpy().tobytes(), _WORDS[dtype.itemsize])[0]
