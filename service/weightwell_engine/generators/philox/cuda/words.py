"""Words on the GPU: Philox4x32-10, four words to a lane."""

import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import kernel
from weightwell_engine.generators.philox.specification import words

_ROUNDS = tl.constexpr(words.ROUNDS)
_FIRST, _SECOND = (tl.constexpr(multiplier) for multiplier in words.MULTIPLIERS)
_WEYL_0, _WEYL_1 = (tl.constexpr(weyl) for weyl in words.WEYL)


@kernel
def draw_words(at: tl.tensor, key: tl.tensor, nonce: tl.tensor, LANE: tl.constexpr) -> tl.tensor:
    """Return the words (4 n) of the Philox blocks ``at`` (n), or with a ``LANE`` of 1 those (n) of the indices ``at``.

    A lane draws a whole block even for a single word. ``key`` holds ``k0, k1`` and ``nonce`` holds ``n0, n1``, the
    first in the low half.
    """
    if LANE == 4:
        w0, w1, w2, w3 = _philox(at, key, nonce)
        return interleaved(w0, w1, w2, w3)
    else:  # noqa: RET505 - to Triton these are two functions
        w0, w1, w2, w3 = _philox(at >> 2, key, nonce)
        place = (at & 3).to(tl.int32)
        return tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))


@kernel
def draw_fields(at: tl.tensor, key: tl.tensor, nonce: tl.tensor, FIELD: tl.constexpr, LANE: tl.constexpr) -> tl.tensor:
    """Return the fields of 8 or 16 bits (4 n) of the groups of four ``at`` (n), or with a ``LANE`` of 1 of the indices.

    A lane draws a whole block for the one or two words that hold its fields.
    """
    MASK: tl.constexpr = (1 << FIELD) - 1
    FIELDS: tl.constexpr = 32 // FIELD
    if LANE == 4 and FIELD == 8:
        word = draw_words(at, key, nonce, 1)
        return interleaved(word & MASK, (word >> 8) & MASK, (word >> 16) & MASK, word >> 24)
    elif LANE == 4:  # noqa: RET505 - to Triton these are three functions
        w0, w1, w2, w3 = _philox(at >> 1, key, nonce)
        second = (at & 1) != 0
        one, other = tl.where(second, w2, w0), tl.where(second, w3, w1)
        return interleaved(one & MASK, one >> FIELD, other & MASK, other >> FIELD)
    else:
        word = draw_words(at // FIELDS, key, nonce, 1)
        return (word >> ((at % FIELDS) * FIELD).to(tl.uint32)) & MASK


@kernel
def interleaved(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> tl.tensor:
    """Return ``a[0], b[0], c[0], d[0], a[1] ...``: the four elements of a lane stay in that lane."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@kernel
def _philox(block: tl.tensor, key: tl.tensor, nonce: tl.tensor) -> tl.tensor:
    x0, x1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    x2, x3 = nonce.to(tl.uint32), (nonce >> 32).to(tl.uint32)
    k0, k1 = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        p, q = x0.to(tl.uint64) * _FIRST, x2.to(tl.uint64) * _SECOND
        x0, x1, x2, x3 = (
            (q >> 32).to(tl.uint32) ^ x1 ^ k0,
            q.to(tl.uint32),
            (p >> 32).to(tl.uint32) ^ x3 ^ k1,
            p.to(tl.uint32),
        )
        k0, k1 = k0 + _WEYL_0, k1 + _WEYL_1
    return x0, x1, x2, x3
