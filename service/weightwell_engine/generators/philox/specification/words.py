"""Words: Philox4x32-10, the counter-based generator that turns an index into 32 random bits.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11. The multipliers and the Weyl
increments are the paper's.
"""

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.generators.philox.specification.keys import Key

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, in units of 2^-32

Words = NDArray[np.uint32]
Indices = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Indices, Indices, Indices, Indices], key: tuple[int, int]) -> tuple[Indices, ...]:
    """Return the four words of each counter: arrays of 32-bit integers, held in 64 so that products are whole."""
    x0, x1, x2, x3 = counter
    first, second = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
    for round_ in range(ROUNDS):
        k0, k1 = (np.uint64((word + round_ * weyl) & 0xFFFFFFFF) for word, weyl in zip(key, WEYL, strict=True))
        p, q = first * x0, second * x2
        x0, x1, x2, x3 = (q >> _HALF) ^ x1 ^ k0, q & _LOW, (p >> _HALF) ^ x3 ^ k1, p & _LOW
    return x0, x1, x2, x3


def words(key: Key, indices: Indices) -> Words:
    """Return the word of each flat index: word ``i & 3`` of block ``i >> 2``."""
    block = indices >> np.uint64(2)
    nonce = (np.full_like(block, key.n0), np.full_like(block, key.n1))
    four = philox((block & _LOW, block >> _HALF, *nonce), (key.k0, key.k1))
    return np.choose((indices & np.uint64(3)).astype(np.intp), four).astype(np.uint32)
