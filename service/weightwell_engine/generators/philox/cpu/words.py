"""Words: Philox4x32-10 in blocks of elements that stay in the first-level cache.

``plan`` lists the words of the next block of elements, and ``write_words`` draws them. A run may begin in the middle of
a Philox block of four words. Such a block is drawn whole, and the words are copied from it.
"""

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.compiling import entry, kernel, uncounted, widest_vectors
from weightwell_engine.generators.philox.cpu.simd import (
    VECTOR,
    Lanes,
    Memory,
    count_from,
    interleave,
    join,
    operation,
    pair_order,
)
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.generators.philox.specification.words import MULTIPLIERS, ROUNDS, WEYL, Indices, Words
from weightwell_engine.regions import Part, Runs

u32, u64, i64 = np.uint32, np.uint64, np.int64

LANES = 8 * VECTOR // 4
"""Elements that are drawn at once: eight vectors of float32."""
_BLOCKS = 1024  # Philox blocks that are planned together: 4096 words of 4 bytes
_LANES_OF_BLOCKS = LANES // 4
_TOGETHER = _LANES_OF_BLOCKS if VECTOR == 64 else _LANES_OF_BLOCKS // 2  # blocks whose words fit into the registers
_COPIED = 16  # elements that are copied, or blocks that are listed, at a time
_HIGH_WORDS = 2 * ROUNDS  # where the counter's high half is among the numbers of a key, and
_SHARED = _HIGH_WORDS + 2  # the numbers that all blocks of a run share
_KEYS = _SHARED + 4
_HIGH_HALF = 1 << 34  # elements from one change of the counter's high half to the next
_CACHE_LINE = 64

_LOW = 0xFFFFFFFF
_WEYL_0, _WEYL_1 = (u64(weyl) for weyl in WEYL)


class Run(NamedTuple):
    """``regions.Part`` for kernels: ``number`` runs, which begin at ``starts`` if that is not empty."""

    first: int
    length: int
    stride: int
    number: int
    starts: NDArray[np.int64] = np.empty(0, np.int64)

    @classmethod
    def of(cls, part: Part) -> "Run":
        """Return a part for a kernel."""
        if isinstance(part, Runs):
            return cls(part.first, part.length, part.stride, part.count)
        return cls(0, part.length, 0, part.starts.size, part.starts)


class Scratch(NamedTuple):
    """Scratch memory of a kernel.

    For each piece of a planned run, ``starts`` has the flat index and ``sizes`` the number of elements. ``sources`` has
    the place of its first word among the words of the Philox blocks ``blocks``. ``raw`` and ``words`` hold a block of
    words. The other arrays hold the low halves of 64-bit words.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sources: NDArray[np.int64]
    blocks: Indices
    keys: Indices
    low_keys: Indices
    raw: Words
    words: Words
    low_raw: Words
    low_words: Words


_of_thread = threading.local()


def scratch() -> Scratch:
    """Return this thread's scratch memory."""
    if not hasattr(_of_thread, "scratch"):
        pieces, words = (_BLOCKS, i64), (4 * _BLOCKS + LANES, u32)
        numbers = [pieces, pieces, pieces, (_BLOCKS + _COPIED, u64), (_KEYS, u64), (_KEYS, u64), *[words] * 4]
        _of_thread.scratch = Scratch(*(_aligned(count, dtype, place) for place, (count, dtype) in enumerate(numbers)))
    scratch: Scratch = _of_thread.scratch
    return scratch


def _aligned(count: int, dtype: type[Any], place: int) -> NDArray[Any]:
    """Return an array that begins on a cache line, ``place`` lines after the start of a page.

    Access across two cache lines costs twice. A load waits for an earlier store at the same offset in another page.
    """
    nbytes, page = count * np.dtype(dtype).itemsize, 4096
    memory = np.empty(nbytes + 2 * page, np.uint8)
    begin = -memory.ctypes.data % page + place * _CACHE_LINE
    return memory[begin : begin + nbytes].view(dtype)


class Planned(NamedTuple):
    """The numbers of planned blocks, pieces and elements. A block that is used whole has 4 elements."""

    blocks: int
    pieces: int
    elements: int


@kernel
def plan(run: Run, done: Any, scratch: Scratch) -> Planned:
    """Plan the elements from number ``done`` on."""
    widest_vectors()
    row, column, scattered = done // run.length, done % run.length, run.starts.size > 0
    used = pieces = elements = 0
    while row < run.number and used < _BLOCKS:
        index = (run.starts[row] if scattered else run.first + row * run.stride) + column
        lead = index & 3
        size = min(run.length - column, 4 * (_BLOCKS - used) - lead, _HIGH_HALF - (index & (_HIGH_HALF - 1)))
        scratch.starts[pieces] = index
        scratch.sizes[pieces] = size
        scratch.sources[pieces] = 4 * used + lead
        visits = (lead + size + 3) >> 2
        if pieces or visits < _BLOCKS:  # a piece with all blocks needs no list
            for visit in range(0, visits, _COPIED):  # the excess is overwritten by the next piece
                _list_blocks(u64((index >> 2) + visit), scratch.blocks, used + visit)
        used += visits
        pieces += 1
        elements += size
        column += size
        if column == run.length:
            row, column = row + 1, 0
    return Planned(used, pieces, elements)


@operation
def _list_blocks(first: Any, blocks: Any, at: Any) -> None:
    blocks.store(at, count_from(first, _COPIED))


@kernel
def expand(key: Key, keys: Indices) -> None:
    """Write the keys of all rounds, two for each, and then the counter's high half.

    Each group of lanes reads them again from memory. There are not enough registers for the keys and the lanes.
    """
    for r in range(ROUNDS):
        keys[2 * r], keys[2 * r + 1] = (u64(key[0]) + u64(r) * _WEYL_0) & _LOW, (u64(key[1]) + u64(r) * _WEYL_1) & _LOW
    keys[_HIGH_WORDS], keys[_HIGH_WORDS + 1] = u64(key[2]), u64(key[3])


@operation
def share(first: Any, keys: Any) -> None:
    """Write the numbers that blocks from ``first`` on share, as long as only the low half of their number changes.

    In the first two rounds, one of the two products is the same for all of them.
    """
    product = keys.load(_HIGH_WORDS) * MULTIPLIERS[1]
    x0, x1 = (product >> 32) ^ (first >> 32) ^ keys.load(0), product & _LOW
    product = x0 * MULTIPLIERS[0]
    keys.store(_SHARED, keys.load(_HIGH_WORDS + 1) ^ keys.load(1))
    keys.store(_SHARED + 1, x1 ^ keys.load(2))
    keys.store(_SHARED + 2, (product >> 32) ^ keys.load(3))
    keys.store(_SHARED + 3, (product & _LOW) ^ keys.load(5))


def words_from(first: Lanes, keys: Memory) -> Lanes:
    """Return the words of ``LANES`` blocks from ``first`` on, whose numbers ``share`` has written."""
    low = first & _LOW
    groups = [_words_of_group(low + at, keys) for at in range(0, _LANES_OF_BLOCKS, _TOGETHER)]
    return join(groups)


def _words_of_group(first: Lanes, keys: Memory) -> Lanes:
    p = (first * MULTIPLIERS[0]).plus([n * MULTIPLIERS[0] for n in pair_order(_TOGETHER)])
    x2 = (p >> 32) ^ keys.load(_SHARED)
    q = (x2 & _LOW) * MULTIPLIERS[1]
    x0, x1, x2 = (q >> 32) ^ keys.load(_SHARED + 1), q, p ^ keys.load(_SHARED + 2)
    p, q = (x0 & _LOW) * MULTIPLIERS[0], (x2 & _LOW) * MULTIPLIERS[1]
    return _words_after(3, (q >> 32) ^ (x1 ^ keys.load(4)), q, (p >> 32) ^ keys.load(_SHARED + 3), p, keys)


def _words_of_blocks(blocks: Lanes, keys: Memory) -> Lanes:
    low = blocks.take(pair_order(_LANES_OF_BLOCKS))
    return _words_after(0, low, low >> 32, keys.load(_HIGH_WORDS), keys.load(_HIGH_WORDS + 1), keys)


def _words_after(rounds: int, x0: Lanes, x1: Lanes, x2: Lanes, x3: Lanes, keys: Memory) -> Lanes:
    """Return the words of blocks in ``pair_order`` after some of their rounds.

    The four words of a block are the low halves of lanes of 64 bits. The high halves are garbage.
    """
    for r in range(rounds, ROUNDS - 1):
        p, q = (x0 & _LOW) * MULTIPLIERS[0], (x2 & _LOW) * MULTIPLIERS[1]
        x0, x1, x2, x3 = (q >> 32) ^ (x1 ^ keys.load(2 * r)), q, (p >> 32) ^ (x3 ^ keys.load(2 * r + 1)), p
    p, q = (x0 & _LOW) * MULTIPLIERS[0], (x2 & _LOW) * MULTIPLIERS[1]
    evens = ((q >> 32) | (q << 32)) ^ ((x1 & _LOW) ^ keys.load(2 * ROUNDS - 2))
    odds = ((p >> 32) | (p << 32)) ^ ((x3 & _LOW) ^ keys.load(2 * ROUNDS - 1))
    return interleave(evens, odds).view(u32)


@operation
def _write_from(first: Any, keys: Any, words: Any, at: Any) -> None:
    words.store(at, words_from(first, keys))


@operation
def _write_listed(blocks: Any, begin: Any, keys: Any, words: Any, at: Any) -> None:
    words.store(at, _words_of_blocks(blocks.load(begin, _LANES_OF_BLOCKS), keys))


@kernel
def write_words(scratch: Scratch, planned: Planned, keys: Indices, raw: Words, words: Words) -> int:
    """Write the words of the planned elements into ``words``, one after the other; return the position of the first."""
    widest_vectors()
    if planned.pieces == 1:
        first = u64(scratch.starts[0] >> 2)
        share(first, keys)
        for b in range(0, planned.blocks, _LANES_OF_BLOCKS):
            _write_from(first + u64(b), keys, words, 4 * b)
        return int(scratch.sources[0])
    whole = planned.elements == 4 * planned.blocks
    target = words if whole else raw
    for b in range(0, planned.blocks, _LANES_OF_BLOCKS):
        _write_listed(scratch.blocks, b, keys, target, 4 * b)
    if not whole:
        at = 0
        for piece in range(planned.pieces):
            source, size = scratch.sources[piece], scratch.sizes[piece]
            for e in range(0, size, _COPIED):  # the excess is overwritten by the next piece
                _copy_words(raw, source + e, words, at + e)
            at += size
    return 0


@operation
def _copy_words(source: Any, begin: Any, words: Any, at: Any) -> None:
    words.store(at, source.load(begin, _COPIED))


@kernel
def copy(source: Words, begin: int, n: int, out: Any, at: Any) -> None:
    """Copy elements of the type of ``out``; Numba would copy slices one element at a time."""
    widest_vectors()
    whole = n & -_COPIED
    for e in range(0, whole, _COPIED):
        _copy_many(source, begin + e, out, at + e)
    for e in range(whole, n):
        _copy_one(source, begin + e, out, at + e)


@operation
def _copy_many(source: Any, begin: Any, out: Any, at: Any) -> None:
    out.store(at, source.load(begin, _COPIED, out.dtype))


@operation
def _copy_one(source: Any, begin: Any, out: Any, at: Any) -> None:
    out.store(at, source.load(begin, None, out.dtype))


@kernel
def held(scratch: Scratch) -> Scratch:
    """Return scratch memory without reference counting."""
    return Scratch(
        uncounted(scratch.starts),
        uncounted(scratch.sizes),
        uncounted(scratch.sources),
        uncounted(scratch.blocks),
        uncounted(scratch.keys),
        uncounted(scratch.low_keys),
        uncounted(scratch.raw),
        uncounted(scratch.words),
        uncounted(scratch.low_raw),
        uncounted(scratch.low_words),
    )


def fill_words(key: Key, run: Run, out: Words) -> None:
    """Write the words of runs themselves."""
    write_all(key, run, out, scratch())


@entry
def write_all(key: Key, run: Run, out: Words, scratch: Scratch) -> None:
    """Write the words of runs themselves, with a thread's scratch memory."""
    widest_vectors()
    work, words, done = held(scratch), uncounted(out), i64(0)
    expand(key, work.keys)
    while done < words.size:
        planned = plan(run, done, work)
        begin = write_words(work, planned, work.keys, work.raw, work.words)
        copy(work.words, begin, planned.elements, words, done)
        done += planned.elements
