"""Fields: the layout of a row in a launch's table. A row describes one part of a tensor."""

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
    ),  # its first program; the target of the elements, and their indices
    *("outer", "inner", "start", "points"),  # lattices
    *("exponent", "side", "strip_exponent", "cols", "taps", "centre", "address"),
)
_WORDS = "key", "nonce", "low_key", "low_nonce", "mask_key", "mask_nonce", "origin", "width", "bits"
_NUMBERS = "scale", "shift", "low", "high", "strip_start", "strip_span"

ROW = np.dtype(
    [(name, "<i8") for name in _INTEGERS] + [(name, "<u8") for name in _WORDS] + [(name, "<f8") for name in _NUMBERS]
)
"""A row. A kernel reads only the fields that its law uses."""

COUNT_OF_FIELDS = tl.constexpr(ROW.itemsize // 8)

# The position of each field, in the order of the class above.
_places = (tl.constexpr(place) for place in range(ROW.itemsize // 8))
BEGIN, TARGET, FIRST, LENGTH, STRIDE, COUNT, *_rest = _places
OUTER, INNER, START, POINTS, *_rest = _rest
EXPONENT, SIDE, STRIP_EXPONENT, COLS, TAPS, CENTRE, ADDRESS, *_rest = _rest
KEY, NONCE, LOW_KEY, LOW_NONCE, MASK_KEY, MASK_NONCE, ORIGIN, WIDTH, BITS, *_rest = _rest
SCALE, SHIFT, LOW, HIGH, STRIP_START, STRIP_SPAN = _rest
