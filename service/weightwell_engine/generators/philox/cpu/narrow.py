"""Rounding of float32 to narrower dtypes, to nearest even, by integer operations on the bits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.generators.philox.cpu.compiling import entry, widest_vectors
from weightwell_engine.generators.philox.cpu.simd import Lanes, operation, where
from weightwell_engine.generators.philox.cpu.words import LANES
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns, narrowing
from weightwell_engine.generators.philox.specification.quantile import Singles


def narrowed(values: Lanes, dtype: DType) -> Lanes:
    """Return the bits of float32 values in a dtype that is no wider; the values are within its range."""
    bits = values.view(np.uint32)
    if dtype.itemsize == 4:
        return bits
    number = narrowing(dtype)
    half, odd = (1 << (number.shift - 1)) - 1, (bits >> number.shift) & 1
    if not number.smallest:  # the sign is in its place
        return ((bits + half + odd) >> number.shift).to(UNSIGNED[dtype.itemsize])
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude + half + odd - number.rebias) >> number.shift
    # The last place of the sum is that of the dtype's subnormal numbers, so the sum is rounded like the dtype.
    subnormal = (magnitude.view(np.float32) + number.magic).view(np.uint32) - int(
        np.float32(number.magic).view(np.uint32)
    )
    rounded = where(magnitude < number.smallest, subnormal, normal) | ((bits >> 31) << number.sign)
    return rounded.to(UNSIGNED[dtype.itemsize])


def encode(values: Singles, dtype: DType) -> Patterns:
    """Compute ``formats.encode`` for float32 values (n) in a narrower dtype."""
    patterns: Patterns = np.empty(values.size, UNSIGNED[dtype.itemsize])
    encoder(dtype.name)(values, patterns)
    return patterns


@cache
def encoder(dtype: str) -> Callable[[Singles, Patterns], None]:
    """Return the kernel that writes the bits of float32 values in a narrower dtype."""

    def write(count: int | None) -> Callable[..., None]:
        @operation
        def round_(values: Any, out: Any, at: Any) -> None:
            out.store(at, narrowed(values.load(at, count), DTYPES[dtype]))

        return round_

    round_many, round_one = write(LANES), write(None)

    def encode(values: Singles, out: Patterns) -> None:
        widest_vectors()
        whole = values.size & -LANES
        for e in range(0, whole, LANES):
            round_many(values, out, e)
        for e in range(whole, values.size):
            round_one(values, out, e)

    return entry(encode, dtype)
