import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import FLOATS
from weightwell_engine.exceptions import Busy
from weightwell_engine.generators import Drawing, places
from weightwell_engine.plan import Piece, Plan, make_plan
from weightwell_engine.spec import Spec, TensorSpec
from weightwell_engine.virtual_file import UNIT, VirtualFile
from weightwell_service import file_response
from weightwell_service.budget import Account, MemoryBudget
from weightwell_service.file_response import DrawingResources
from weightwell_service.scheduler import Requester, Scheduler
from weightwell_service.stream import STALLED, Share, Stream, Totals

T = TypeVar("T")

# Seconds that a test waits for an expected event.
PATIENCE = 30.0


class Counting:
    """A generator whose bytes say which element they belong to, and that counts how often it is asked to draw.

    From draw number ``failing`` on it fails, and in draw number ``held_at`` it waits until it is set free.
    """

    name = "counting"
    identity = "counting"
    portable = True
    chunk = 64
    cost_of_byte = 1

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

    def kept(self, plan: Plan) -> int:
        del plan
        return 0

    def cost(self, piece: Piece) -> int:
        return piece.nbytes * self.cost_of_byte

    def before(self, piece: Piece) -> int:
        del piece
        return 0

    def whole(self, piece: Piece) -> int:
        del piece
        return 0

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        del drawing, piece
        return iter(())

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
def turns() -> Iterator[Scheduler]:
    turns = Scheduler(4, "draw")
    yield turns
    turns.shutdown()


def streamed(
    generator: Counting,
    turns: Scheduler,
    start: int,
    stop: int,
    plan: Plan = PLAN,
    *,
    account: Account | None = None,
    streams: int = 1,
    timeout: float = PATIENCE,
) -> Stream:
    share = Share(
        turns=turns,
        requester=Requester("client", small=False),
        account=account or Account(MemoryBudget(2**30), 0),
        matrices=None,
        streams=lambda: streams,
        timeout=timeout,
        totals=Totals(),
    )
    return Stream(VirtualFile(plan, generator), start, stop, share)


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


async def drained(turns: Scheduler) -> None:
    """Return when all that was submitted before this is done, and what that tells the event loop has arrived."""
    await asyncio.gather(*[asyncio.wrap_future(turns.submit(nothing(), LAST)) for _ in range(4)])
    await asyncio.sleep(0)


def nothing() -> Generator[None, None, None]:
    yield from ()


LAST = Requester("last", small=False)


def collected(generator: Counting, turns: Scheduler, start: int, stop: int, plan: Plan = PLAN) -> list[bytes]:
    async def work() -> list[bytes]:
        return [bytes(chunk) async for chunk in streamed(generator, turns, start, stop, plan).chunks()]

    return run(work)


# What arrives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
def test_a_stream_is_the_whole_file(turns: Scheduler, concurrency: int) -> None:
    assert b"".join(collected(Counting(concurrency), turns, 0, PLAN.nbytes)) == FILE


@given(st.lists(st.integers(0, len(FILE)), max_size=4), st.integers(1, 4))
def test_streams_between_any_cuts_are_the_whole_file(turns: Scheduler, cuts: list[int], concurrency: int) -> None:
    borders = sorted({0, *cuts, len(FILE)})
    parts = [b"".join(collected(Counting(concurrency), turns, *span)) for span in pairwise(borders)]
    assert [len(part) for part in parts] == [stop - start for start, stop in pairwise(borders)]
    assert b"".join(parts) == FILE


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_odd_number_of_elements_of_any_dtype_is_cut_anywhere(turns: Scheduler, dtype: str) -> None:
    plan = make((13, dtype))
    whole = b"".join(collected(Counting(), turns, 0, plan.nbytes, plan))
    for cut in range(len(plan.header), plan.nbytes):
        assert b"".join(collected(Counting(), turns, cut, plan.nbytes, plan)) == whole[cut:]


def test_chunks_are_cut_where_every_reader_s_are(turns: Scheduler) -> None:
    first = len(PLAN.header) + 10
    sizes = [len(part) for part in collected(Counting(), turns, first, PLAN.nbytes)]
    assert sum(sizes[:2]) == Counting.chunk - 10
    assert set(sizes[2:-1]) == {Counting.chunk}


def test_the_first_chunks_are_smaller_so_that_the_first_byte_comes_sooner(turns: Scheduler) -> None:
    generator, plan = Counting(), make((8192, "float8_e5m2"))
    generator.chunk = 1024
    sizes = [len(part) for part in collected(generator, turns, len(plan.header), plan.nbytes, plan)]
    assert sizes == [64, 64, 128, 256, 512, *[1024] * 7]


@pytest.mark.parametrize("stop", [1, 8, len(PLAN.header)])
def test_the_header_alone_draws_nothing(turns: Scheduler, stop: int) -> None:
    generator = Counting()
    assert b"".join(collected(generator, turns, 0, stop)) == FILE[:stop]
    assert generator.draws == 0


def test_a_file_without_data_is_its_header(turns: Scheduler) -> None:
    plan = make()
    assert collected(Counting(), turns, 0, plan.nbytes, plan) == [plan.header]


# What is drawn, and when ---------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[Scheduler]:
    """One thread."""
    turns = Scheduler(1, "draw")
    yield turns
    turns.shutdown()


@pytest.mark.parametrize(("concurrency", "streams", "ahead"), [(1, 1, 1), (3, 1, 3), (3, 2, 2), (3, 50, 1)])
def test_no_more_is_drawn_than_a_few_chunks_ahead_of_the_reader(
    alone: Scheduler, concurrency: int, streams: int, ahead: int
) -> None:
    generator, plan = Counting(concurrency), make((10_000, "float32"))

    async def work() -> None:
        stream = streamed(generator, alone, len(plan.header), plan.nbytes, plan, streams=streams)
        async with aclosing(stream.chunks()) as chunks:
            for taken in range(1, 20):
                await anext(chunks)
                await drained(alone)
                assert generator.draws == taken + ahead

    run(work)


def test_chunks_are_shorter_where_there_are_many_streams(turns: Scheduler) -> None:
    plan = make((10_000, "float32"))

    async def work(streams: int) -> int:
        stream = streamed(Counting(), turns, len(plan.header), plan.nbytes, plan, streams=streams)
        return max([len(chunk) async for chunk in stream.chunks()])

    assert [run(partial(work, streams)) for streams in (1, 256, 257, 512, 2000)] == [64, 64, 32, 32, 32]


def test_unread_chunks_of_a_stalled_client_are_released_and_drawn_again(alone: Scheduler) -> None:
    generator, budget, received = Counting(3), MemoryBudget(2**20), bytearray()
    plan, held = make((10_000, "float8_e5m2")), []

    async def work() -> None:
        async with budget.response(0) as account:
            stream = streamed(generator, alone, 0, plan.nbytes, plan, account=account)
            async with aclosing(stream.chunks()) as chunks:
                async for chunk in chunks:
                    received.extend(chunk)
                    del chunk
                    await drained(alone)
                    held.append(budget.chunks)
                    stream.look(time.monotonic() + STALLED)
                    await drained(alone)
                    assert budget.chunks == 0

    run(work)
    assert min(held[:-3]) > 64
    assert bytes(received) == bytes(VirtualFile(plan, Counting()).read(0, plan.nbytes))
    assert generator.draws > plan.data_nbytes // 32


def test_a_file_that_is_drawn_in_order_is_never_drawn_again(alone: Scheduler) -> None:
    generator = Counting(1)

    async def work() -> None:
        stream = streamed(generator, alone, 0, PLAN.nbytes)
        async for _ in stream.chunks():
            stream.look(time.monotonic() + STALLED)

    run(work)
    reference = Counting(1)
    collected(reference, alone, 0, PLAN.nbytes)
    assert generator.draws == reference.draws


def test_without_memory_a_stream_goes_on_with_its_smallest_chunks(alone: Scheduler) -> None:
    budget, plan = MemoryBudget(8 * 100), make((10_000, "float32"))

    async def work() -> set[int]:
        async with budget.response(64) as account:
            stream = streamed(Counting(3), alone, len(plan.header), plan.nbytes, plan, account=account)
            sizes = set()
            async for chunk in stream.chunks():
                sizes.add(len(chunk))
                assert budget.chunks <= budget.for_chunks
            return sizes

    assert 32 in run(work)


def test_a_chunk_counts_until_its_last_view_is_deleted(alone: Scheduler) -> None:
    budget = MemoryBudget(2**20)

    async def work() -> memoryview:
        async with budget.response(0) as account:
            stream = streamed(Counting(), alone, len(PLAN.header), len(PLAN.header) + 32, account=account)
            [chunk] = [chunk async for chunk in stream.chunks()]
            return chunk[10:20]

    part = run(work)
    assert budget.chunks == 32
    del part
    assert budget.chunks == 0


def test_a_chunk_is_drawn_in_units_of_bounded_cost(alone: Scheduler) -> None:
    generator = Counting()
    generator.chunk, generator.cost_of_byte = 2**15, UNIT // 256
    plan = make((2**15, "float8_e5m2"))
    parts = collected(generator, alone, 0, plan.nbytes, plan)
    assert b"".join(parts) == bytes(VirtualFile(plan, Counting()).read(0, plan.nbytes))
    assert max(map(len, parts)) == 2**14
    assert generator.draws == 2**15 // 256


def test_a_chunk_that_is_not_drawn_in_time_is_busy(alone: Scheduler) -> None:
    generator = Counting(held_at=1)

    async def work() -> None:
        stream = streamed(generator, alone, 0, PLAN.nbytes, timeout=100.0)
        reading = asyncio.ensure_future(anext(stream.chunks()))
        await asyncio.sleep(0)
        stream.look(time.monotonic() + 50)
        await asyncio.sleep(0)
        assert not reading.done()
        stream.look(time.monotonic() + 100)
        await reading

    with pytest.raises(Busy, match="nothing was drawn for 100 s") as told:
        run(work)
    assert told.value.retry_after == 100
    assert generator.closed


def test_a_client_that_reads_in_time_has_not_stalled(alone: Scheduler) -> None:
    generator, plan = Counting(3), make((10_000, "float32"))

    async def work() -> None:
        stream = streamed(generator, alone, len(plan.header), plan.nbytes, plan)
        async with aclosing(stream.chunks()) as chunks:
            await anext(chunks)
            await drained(alone)
            drawn = generator.draws
            stream.look(time.monotonic())
            await anext(chunks)
            await drained(alone)
            assert generator.draws == drawn + 1

    run(work)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_drawing_stops_when_the_stream_is_closed(alone: Scheduler, concurrency: int) -> None:
    generator, plan = Counting(concurrency, held_at=4), make((10_000, "float32"))

    async def work() -> None:
        stream = streamed(generator, alone, len(plan.header), plan.nbytes, plan)
        async with aclosing(stream.chunks()) as chunks:
            for _ in range(3):
                await anext(chunks)
        await drained(alone)

    run(work)
    assert generator.closed
    assert generator.draws <= 4  # the one that may have been under way


def test_a_stream_that_ends_closes_its_drawing(turns: Scheduler) -> None:
    generator = Counting()
    collected(generator, turns, 0, PLAN.nbytes)
    assert generator.closed


def test_a_disconnect_before_the_first_chunk_stops_the_drawing(alone: Scheduler) -> None:
    generator, plan, reached, free = Counting(), make((10_000, "float32")), threading.Event(), threading.Event()

    def busy() -> Generator[None, None, None]:
        reached.set()
        free.wait(PATIENCE)
        yield from ()

    async def work() -> None:
        alone.submit(busy(), LAST)
        task = asyncio.ensure_future(anext(streamed(generator, alone, 0, plan.nbytes, plan).chunks()))
        await asyncio.to_thread(reached.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        await drained(alone)

    run(work)
    assert generator.draws == 0


def test_all_streams_are_looked_at_together_however_many_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_response, "_LOOK", 0.0)
    resources = DrawingResources(MemoryBudget(2**20), threads=1, timeout=1.0, max_responses=9)
    looks: list[float] = []
    stream: Any = mock.Mock(look=looks.append)

    async def work() -> None:
        for _ in range(20):
            with resources.looked_at(stream):
                pass
        await asyncio.sleep(0)
        assert looks == []
        with resources.looked_at(stream):
            for _ in range(10):
                await asyncio.sleep(0)

    run(work)
    assert 5 <= len(looks) <= 10


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_failure_to_draw_comes_before_the_first_byte(turns: Scheduler, concurrency: int) -> None:
    generator = Counting(concurrency, failing=0)

    async def work() -> None:
        async with aclosing(streamed(generator, turns, 0, PLAN.nbytes).chunks()) as chunks:
            await anext(chunks)

    with pytest.raises(RuntimeError, match="out of order"):
        run(work)
    assert generator.closed


def test_a_later_failure_comes_after_all_that_was_drawn_before_it(turns: Scheduler) -> None:
    plan, received = make((10_000, "float32")), bytearray()

    async def work() -> None:
        stream = streamed(Counting(failing=3), turns, len(plan.header), plan.nbytes, plan)
        async with aclosing(stream.chunks()) as chunks:
            async for part in chunks:
                received.extend(part)

    with pytest.raises(RuntimeError, match="out of order"):
        run(work)
    assert len(received) == 2 * Counting.chunk  # two halves and a whole one
