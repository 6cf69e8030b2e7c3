"""Fields: what a row of a launch's table says of one part of a tensor, and where in it a kernel finds what it needs."""

import numpy as np
import triton.language as tl

_INTEGERS = (
    *(
        "begin",
        "target",
        "first",
        "length",
        "stride",
        "count",
    ),  # its first program; where elements go, and which they are
    *("outer", "inner", "start", "points"),  # lattices
    *("exponent", "side", "strip_exponent", "cols", "taps", "centre", "address"),
)
_WORDS = "key", "nonce", "low_key", "low_nonce", "mask_key", "mask_nonce", "origin", "width", "bits"
_NUMBERS = "scale", "shift", "low", "high", "strip_start", "strip_span"

ROW = np.dtype(
    [(name, "<i8") for name in _INTEGERS] + [(name, "<u8") for name in _WORDS] + [(name, "<f8") for name in _NUMBERS]
)
"""A row. A kernel reads those of its fields that its law has, and no others."""

COUNT_OF_FIELDS = tl.constexpr(ROW.itemsize // 8)

# The places of the fields, in the order in which they are above.
_places = (tl.constexpr(place) for place in range(ROW.itemsize // 8))
BEGIN, TARGET, FIRST, LENGTH, STRIDE, COUNT, *_rest = _places
OUTER, INNER, START, POINTS, *_rest = _rest
EXPONENT, SIDE, STRIP_EXPONENT, COLS, TAPS, CENTRE, ADDRESS, *_rest = _rest
KEY, NONCE, LOW_KEY, LOW_NONCE, MASK_KEY, MASK_NONCE, ORIGIN, WIDTH, BITS, *_rest = _rest
SCALE, SHIFT, LOW, HIGH, STRIP_START, STRIP_SPAN = _rest
