import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import FLOATS
from weightwell_engine.generators import places
from weightwell_engine.plan import Piece, Plan, make_plan
from weightwell_engine.spec import Spec, TensorSpec
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.stream import stream

T = TypeVar("T")


class Counting:
    """A generator whose bytes say which element they belong to, and that counts how often it is asked to draw.

    From draw number ``failing`` on it fails, and in draw number ``held_at`` it waits until it is set free.
    """

    name = "counting"
    identity = "counting"
    portable = True
    chunk = 64

    def __init__(self, concurrency: int = 1, *, failing: int | None = None, held_at: int | None = None):
        self.concurrency = concurrency
        self.failing = failing
        self.draws = 0
        self.closed = False
        self.held_at = held_at
        self.free = threading.Event()
        self._lock = threading.Lock()

    def warm_up(self) -> None: ...

    def check(self, plan: Plan) -> None: ...

    def instant(self, plan: Plan) -> bool:
        del plan
        return False

    def footprint(self, plan: Plan) -> int:
        del plan
        return 0

    def open(self, plan: Plan) -> "Counting":
        del plan
        return self

    def close(self) -> None:
        self.closed = True
        self.free.set()

    def allocate(self, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        with self._lock:
            self.draws += 1
            if self.failing is not None and self.draws > self.failing:
                raise RuntimeError("out of order")
        if self.draws == self.held_at:
            self.free.wait(10)
        for piece, place in places(pieces, out):
            self._fill(piece, place)

    def _fill(self, piece: Piece, out: memoryview) -> None:
        size = piece.tensor.dtype.itemsize
        for i in range(piece.stop - piece.start):
            element = (piece.tensor.order + 1) * 1_000_003 + piece.start + i
            out[i * size : (i + 1) * size] = (element % 2 ** (8 * size)).to_bytes(size, "little")


def make(*sizes: tuple[int, str]) -> Plan:
    tensors = tuple(TensorSpec(f"t{i}", (size,), dtype, 0, "zeros", {}) for i, (size, dtype) in enumerate(sizes))
    return make_plan(Spec("torch", tensors), "counting", portable=True, max_bytes=2**40)


PLAN = make((37, "float32"), (5, "float64"), (0, "float64"), (33, "float8_e5m2"), (21, "bfloat16"), (200, "float16"))
FILE = bytes(VirtualFile(PLAN, Counting()).read(0, PLAN.nbytes))


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


def collected(
    generator: Counting, executor: ThreadPoolExecutor, start: int, stop: int, plan: Plan = PLAN
) -> list[bytes]:
    async def work() -> list[bytes]:
        return [bytes(chunk) async for chunk in stream(VirtualFile(plan, generator), executor, start, stop)]

    return run(work)


# What arrives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
def test_a_stream_is_the_whole_file(executor: ThreadPoolExecutor, concurrency: int) -> None:
    assert b"".join(collected(Counting(concurrency), executor, 0, PLAN.nbytes)) == FILE


@given(st.lists(st.integers(0, len(FILE)), max_size=4), st.integers(1, 4))
def test_streams_between_any_cuts_are_the_whole_file(
    executor: ThreadPoolExecutor, cuts: list[int], concurrency: int
) -> None:
    borders = sorted({0, *cuts, len(FILE)})
    parts = [b"".join(collected(Counting(concurrency), executor, *span)) for span in pairwise(borders)]
    assert [len(part) for part in parts] == [stop - start for start, stop in pairwise(borders)]
    assert b"".join(parts) == FILE


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_odd_number_of_elements_of_any_dtype_is_cut_anywhere(executor: ThreadPoolExecutor, dtype: str) -> None:
    plan = make((13, dtype))
    whole = b"".join(collected(Counting(), executor, 0, plan.nbytes, plan))
    for cut in range(len(plan.header), plan.nbytes):
        assert b"".join(collected(Counting(), executor, cut, plan.nbytes, plan)) == whole[cut:]


def test_chunks_are_cut_where_every_reader_s_are(executor: ThreadPoolExecutor) -> None:
    first = len(PLAN.header) + 10
    sizes = [len(part) for part in collected(Counting(), executor, first, PLAN.nbytes)]
    assert sum(sizes[:2]) == Counting.chunk - 10
    assert set(sizes[2:-1]) == {Counting.chunk}


def test_the_first_chunks_are_smaller_so_that_the_first_byte_comes_sooner(executor: ThreadPoolExecutor) -> None:
    generator, plan = Counting(), make((8192, "float8_e5m2"))
    generator.chunk = 1024
    sizes = [len(part) for part in collected(generator, executor, len(plan.header), plan.nbytes, plan)]
    assert sizes == [64, 64, 128, 256, 512, *[1024] * 7]


@pytest.mark.parametrize("stop", [1, 8, len(PLAN.header)])
def test_the_header_alone_draws_nothing(executor: ThreadPoolExecutor, stop: int) -> None:
    generator = Counting()
    assert b"".join(collected(generator, executor, 0, stop)) == FILE[:stop]
    assert generator.draws == 0


def test_a_file_without_data_is_its_header(executor: ThreadPoolExecutor) -> None:
    plan = make()
    assert collected(Counting(), executor, 0, plan.nbytes, plan) == [plan.header]


# What is drawn, and when ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_is_drawn_than_a_few_chunks_ahead_of_the_reader(concurrency: int) -> None:
    generator, plan = Counting(concurrency), make((10_000, "float32"))

    async def work(pool: ThreadPoolExecutor) -> None:
        async with aclosing(stream(VirtualFile(plan, generator), pool, len(plan.header), plan.nbytes)) as chunks:
            for taken in range(1, 20):
                await anext(chunks)
                # Whatever was given to the pool before this is drawn before this returns.
                await asyncio.gather(*[asyncio.wrap_future(pool.submit(int)) for _ in range(4)])
                assert generator.draws <= taken + concurrency

    with ThreadPoolExecutor(1) as pool:
        run(lambda: work(pool))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_drawing_stops_when_the_stream_is_closed(concurrency: int) -> None:
    generator, plan = Counting(concurrency, held_at=4), make((10_000, "float32"))

    async def work(pool: ThreadPoolExecutor) -> None:
        async with aclosing(stream(VirtualFile(plan, generator), pool, len(plan.header), plan.nbytes)) as chunks:
            for _ in range(3):
                await anext(chunks)

    with ThreadPoolExecutor(1) as pool:
        run(lambda: work(pool))
        generator.free.set()
    assert generator.closed
    assert generator.draws <= 4  # the one that may have been under way


def test_a_stream_that_ends_closes_its_drawing(executor: ThreadPoolExecutor) -> None:
    generator = Counting()
    collected(generator, executor, 0, PLAN.nbytes)
    assert generator.closed


def test_a_reader_who_leaves_before_the_first_chunk_stops_the_drawing() -> None:
    generator, plan, reached, free = Counting(), make((10_000, "float32")), threading.Event(), threading.Event()

    async def work(pool: ThreadPoolExecutor) -> None:
        pool.submit(reached.set)
        pool.submit(free.wait, 10)
        task = asyncio.ensure_future(anext(stream(VirtualFile(plan, generator), pool, 0, plan.nbytes)))
        await asyncio.to_thread(reached.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()

    with ThreadPoolExecutor(1) as pool:
        run(lambda: work(pool))
    assert generator.draws == 0


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_failure_to_draw_comes_before_the_first_byte(executor: ThreadPoolExecutor, concurrency: int) -> None:
    generator = Counting(concurrency, failing=0)

    async def work() -> None:
        async with aclosing(stream(VirtualFile(PLAN, generator), executor, 0, PLAN.nbytes)) as chunks:
            await anext(chunks)

    with pytest.raises(RuntimeError, match="out of order"):
        run(work)
    assert generator.closed


def test_a_later_failure_comes_after_all_that_was_drawn_before_it(executor: ThreadPoolExecutor) -> None:
    plan, received = make((10_000, "float32")), bytearray()

    async def work() -> None:
        async with aclosing(
            stream(VirtualFile(plan, Counting(failing=3)), executor, len(plan.header), plan.nbytes)
        ) as chunks:
            async for part in chunks:
                received.extend(part)

    with pytest.raises(RuntimeError, match="out of order"):
        run(work)
    assert len(received) == 2 * Counting.chunk  # two halves and a whole one
