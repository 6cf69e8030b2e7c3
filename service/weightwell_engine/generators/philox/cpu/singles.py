"""float32: from words to the bits of float32 and of the narrower dtypes.

The processor waits in a long chain of dependent operations, so several vectors (lanes) are computed at once. Words are
written to memory first, a block that stays in the first-level cache at a time. Only the words of contiguous uniform
elements, which take few operations, stay in registers. If one lane is in a tail
of the normal distribution, both polynomials are computed for all its lanes. Operations and their order are those of the
reference: without fastmath, LLVM keeps both and fuses nothing. Scaling by a power of two is exact, so it is done once
and not for each element.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cpu.compiling import entry, uncounted, widest_vectors
from weightwell_engine.generators.philox.cpu.narrow import narrowed
from weightwell_engine.generators.philox.cpu.simd import Lanes, either, operation, rarely, where
from weightwell_engine.generators.philox.cpu.words import (
    LANES,
    Run,
    Scratch,
    copy,
    expand,
    held,
    plan,
    scratch,
    share,
    words_from,
    write_words,
)
from weightwell_engine.generators.philox.specification import quantile
from weightwell_engine.generators.philox.specification.draws import Variate
from weightwell_engine.generators.philox.specification.keys import Key

i32, u32, i64, u64, f32 = np.int32, np.uint32, np.int64, np.uint64, np.float32

_LOW = 0xFFFFFFFF
_UNIFORM, _NORMAL = int(Variate.UNIFORM), int(Variate.NORMAL)


class Affine(NamedTuple):
    """``min(max(v * scale + shift, low), high)``; all four are float32, or all float64."""

    scale: Any
    shift: Any
    low: Any
    high: Any


class Single(NamedTuple):
    """A law of float32 arithmetic. ``origin`` and ``width`` are those of a wide window."""

    variate: int
    origin: Any
    width: Any
    affine: Affine
    key: Key


Draw = Callable[[Lanes, Single], tuple[Lanes, float]]
"""The function from words to variates, and the unit of the variates."""


def uniform(words: Lanes, _law: Single) -> tuple[Lanes, float]:
    """Return variates on the odd grid of (-1, 1)."""
    return (((words >> 7) | 1).view(i32) - (1 << 24)).to(f32), 2.0**-24


def normal(words: Lanes, _law: Any = None) -> tuple[Lanes, float]:
    """Return standard normal variates."""
    cell = words | 1
    signed, odd = cell.view(i32), (cell ^ (1 << 31)).view(i32)  # v is the odd number in units of 2^-31
    rest = where(signed < 0, 0 - signed, signed)  # 2^31 - |odd|
    q = rest.to(f32)
    log = _log2(q * (2.0**32 - q))
    tails = rest < quantile.TAIL_BOUND
    ratio = rarely(tails, lambda: _polynomial(quantile.TAIL, log + quantile.TAIL_SHIFT), _centre(log))
    return odd.to(f32) * ratio, 2.0**-31


def _windowed(words: Lanes, law: Single) -> tuple[Lanes, float]:
    """Return standard normal variates in a wide window."""
    pairs, width = words.view(u64), law.width & _LOW  # the width is below 2^32
    evens, odds = (pairs & _LOW) * width, (pairs >> 32) * width
    return normal(((evens >> 32) | (odds & (_LOW << 32))).view(u32) + law.origin.to(u32))


def _log2(s: Lanes) -> Lanes:
    """Return the logarithm of numbers in units of 2^-62."""
    shifted = s.view(i32) - (quantile.SQRT_HALF_32 + (62 << 23))
    x = ((shifted & 0x7FFFFF) + quantile.SQRT_HALF_32).view(f32) - 1
    x2 = x * x
    low, high = _four(quantile.LOG2[:4], x, x2), _four(quantile.LOG2[4:], x, x2)
    return (shifted >> 23).to(f32) + x * (low + high * (x2 * x2))


def _centre(x: Lanes) -> Lanes:
    x2 = x * x
    x4 = x2 * x2
    c = quantile.CENTRE
    return _four(c[:4], x, x2) + (_four(c[4:8], x, x2) + ((c[8] + c[9] * x) + c[10] * x2) * x4) * x4


def _polynomial(c: tuple[float, ...], x: Lanes) -> Lanes:
    x2 = x * x
    x4 = x2 * x2
    return _four(c[:4], x, x2) + (_four(c[4:8], x, x2) + _four(c[8:], x, x2) * x4) * x4


def _four(c: tuple[float, ...], x: Lanes, x2: Lanes) -> Lanes:
    return (c[0] + c[1] * x) + (c[2] + c[3] * x) * x2


def fill_singles(law: Single, run: Run, dtype: str, out: Any) -> None:
    """Write the elements of runs as bits of float32 or a narrower dtype: uint32, uint16 or uint8."""
    filler(dtype)(law, run, out, scratch())


@cache
def filler(dtype: str) -> Callable[[Single, Run, Any, Scratch], None]:
    """Return the kernel that draws elements of float32 arithmetic and writes their bits in a dtype."""

    def element(words: Lanes, draw: Draw, law: Single) -> Lanes:
        variates, unit = draw(words, law)
        affine = law.affine
        values = variates * (affine.scale * unit) + affine.shift
        values = where(values < affine.low, affine.low, values)
        values = where(values > affine.high, affine.high, values)
        return narrowed(values, DTYPES[dtype])

    def of_words(draw: Draw) -> Callable[..., None]:
        @operation
        def write(law: Any, words: Any, begin: Any, whole: Any, out: Any, spare: Any, at: Any) -> None:
            either(whole, out, spare).store(at, element(words.load(begin, LANES), draw, law))

        return write

    uniforms_of_words, normals_of_words, windowed_of_words = map(of_words, (uniform, normal, _windowed))

    @operation
    def uniforms_of_run(law: Any, first: Any, keys: Any, out: Any, at: Any) -> None:
        out.store(at, element(words_from(first, keys), uniform, law))

    def fill(law: Single, run: Run, out: Any, scratch: Scratch) -> None:
        widest_vectors()
        work, elements, done = held(scratch), uncounted(out), i64(0)
        expand(law.key, work.keys)
        while done < elements.size:
            planned = plan(run, done, work)
            n = planned.elements
            if law.variate == _UNIFORM and planned.pieces == 1 and n == 4 * planned.blocks and n % LANES == 0:
                first = u64(work.starts[0] >> 2)
                share(first, work.keys)
                for e in range(0, n, LANES):
                    uniforms_of_run(law, first + u64(e >> 2), work.keys, elements, done + e)
            else:
                begin = write_words(work, planned, work.keys, work.raw, work.words)
                # The values after the last element, up to a whole group of lanes, are garbage.
                whole, spare = n % LANES == 0, work.raw
                at = done if whole else i64(0)
                if law.variate == _UNIFORM:
                    for e in range(0, n, LANES):
                        uniforms_of_words(law, work.words, begin + e, whole, elements, spare, at + e)
                elif law.variate == _NORMAL:
                    for e in range(0, n, LANES):
                        normals_of_words(law, work.words, begin + e, whole, elements, spare, at + e)
                else:
                    for e in range(0, n, LANES):
                        windowed_of_words(law, work.words, begin + e, whole, elements, spare, at + e)
                if not whole:
                    copy(spare, 0, n, elements, done)
            done += n

    return entry(fill, f"singles-{dtype}")
