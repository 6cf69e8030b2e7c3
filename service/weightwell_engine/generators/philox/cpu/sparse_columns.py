"""Ranking: which elements of a sparse matrix's columns are zero, by the random words of its mask.

Compiled by Numba. Columns are ranked several side by side, in lanes.
"""

from typing import Any, NamedTuple

import numpy as np

from weightwell_engine.generators.philox.cpu.compiling import entry, kernel, widest_vectors
from weightwell_engine.generators.philox.cpu.simd import bits_of, load, lowest, store, where
from weightwell_engine.generators.philox.specification.words import Indices, Words

u32, u64, i64, f64 = np.uint32, np.uint64, np.int64, np.float64

RANKED = 16
"""Columns that are ranked side by side, and whose bits are a uint16; ``kernels`` is compiled for this number, too."""

_LOW = u64(0xFFFFFFFF)
_HALF = u64(32)


@entry
def rank_columns(
    words: Words, width: int, wanted: int, last_words: Words, last_rows: Words, zeros: Any, stride: int
) -> None:
    """Find the ``wanted`` lowest elements, at least one, of every column of a panel, as ``kernels.Mask`` tells them.

    ``words`` are the panel's, row by row, and ``RANKED`` more, of any value. ``zeros`` begins with the panel's first
    column, and may be empty.
    """
    rows = (words.size - RANKED) // width
    limit_words, limit_rows = np.zeros(width + RANKED, u32), np.zeros(width + RANKED, u32)
    for column in range(0, width, RANKED):
        _rank(words, Panel(column, min(RANKED, width - column), width, rows), wanted, limit_words, limit_rows)
    for column in range(width):
        last_words[column], last_rows[column] = limit_words[column], limit_rows[column]
    if zeros.size:
        _mark(words, rows, width, limit_words, limit_rows, zeros, stride)


class Panel(NamedTuple):
    """Columns that are ranked side by side: the first, and how many they are, in rows of ``width`` words."""

    first: int
    number: int
    width: int
    rows: int


@kernel
def _rank(words: Words, panel: Panel, wanted: int, limit_words: Words, limit_rows: Words) -> None:
    """Find the limits of at most ``RANKED`` columns at once.

    Words are uniform. Of a column, how many are below the word where its limit is expected tells how far from there it
    is, give or take the root of that. So a second look leaves few candidates; one that is wider follows, if it was in
    vain.
    """
    step, spread = float(1 << 32) / panel.rows, 4.0
    expected = (wanted - 0.5) * step
    low, high, below = np.full(RANKED, u32(expected), u32), np.empty(RANKED, u32), np.empty(RANKED, u32)
    distances, sizes = np.empty(RANKED, i64), np.empty(RANKED, i64)
    _count_below(words, panel, low, below)
    for column in range(RANKED):
        distances[column] = wanted - i64(below[column])
    while True:
        for column in range(RANKED):
            middle = expected + distances[column] * step
            margin = spread * (np.sqrt(float(abs(distances[column]))) + 1.0) * step
            low[column] = u32(min(max(middle - margin, 0.0), float(_LOW)))
            high[column] = u32(min(max(middle + margin, 0.0), float(_LOW)))
        room = min(panel.rows, 64 + int(4.0 * spread * np.sqrt(np.sqrt(float(panel.rows)))))
        keys = np.empty(RANKED * room, u64)
        _collect(words, panel, low, high, below, keys, room, sizes)
        settled = True
        for column in range(panel.number):
            place = wanted - i64(below[column])
            if 0 < place <= sizes[column] <= room:
                limit = _limit(keys, column * room, sizes[column], place)
                limit_words[panel.first + column], limit_rows[panel.first + column] = u32(limit >> _HALF), u32(limit)
            else:
                settled = False
        if settled:
            return
        spread *= 4.0


@kernel
def _count_below(words: Words, panel: Panel, bounds: Words, counts: Words) -> None:
    """Count the words of each column that are below its bound."""
    widest_vectors()
    bound, count = load(bounds, 0, RANKED), load(bounds, 0, RANKED) & u32(0)
    for row in range(panel.rows):
        count = where(load(words, row * panel.width + panel.first, RANKED) < bound, count + u32(1), count)
    store(counts, 0, count)


@kernel
def _collect(
    words: Words, panel: Panel, low: Words, high: Words, below: Words, keys: Any, room: int, sizes: Any
) -> None:
    """Count the words of each column that are below ``low``; collect the keys of those from there to ``high``.

    A key is a word and its row. What there is no room for is counted.
    """
    widest_vectors()
    least, most, count = load(low, 0, RANKED), load(high, 0, RANKED), load(low, 0, RANKED) & u32(0)
    for column in range(RANKED):
        sizes[column] = 0
    for row in range(panel.rows):
        at = row * panel.width + panel.first
        word = load(words, at, RANKED)
        count = where(word < least, count + u32(1), count)
        inside = bits_of(word - least <= most - least)
        while inside:
            column = lowest(inside)
            if sizes[column] < room:
                keys[column * room + sizes[column]] = (u64(words[at + column]) << _HALF) | u64(row)
            sizes[column] += 1
            inside &= inside - u64(1)
    store(below, 0, count)


@kernel
def _limit(keys: Indices, first: int, size: Any, wanted: Any) -> Any:
    """Return a number up to which there are as many as are wanted of some keys, no two of which are the same.

    Interpolation finds it in a few guesses; every fourth halves what is left, so that it ends whatever the keys.
    """
    low = high = keys[first]
    for at in range(first, first + size):
        low, high = min(low, keys[at]), max(high, keys[at])
    fewer, enough, guesses = 0, size, 0
    while enough > wanted:
        gap, share = high - low, (wanted - fewer) / (enough - fewer + 1.0)
        guess = low + min(gap >> u64(1) if guesses & 3 == 3 else u64(share * f64(gap)), gap - u64(1))
        count = 0
        for at in range(first, first + size):
            count += keys[at] <= guess
        if count < wanted:
            low, fewer = guess + u64(1), count
        else:
            high, enough = guess, count
        guesses += 1
    return high


@kernel
def _mark(words: Words, rows: int, width: int, last_words: Words, last_rows: Words, zeros: Any, stride: int) -> None:
    """Write which elements are zero, given the limits of their columns."""
    widest_vectors()
    for row in range(rows):
        for column in range(0, width, RANKED):
            word, last_word = load(words, row * width + column, RANKED), load(last_words, column, RANKED)
            tie = u32(row) <= load(last_rows, column, RANKED)
            zeros[row * stride + column // RANKED] = bits_of(where(word == last_word, tie, word < last_word))
