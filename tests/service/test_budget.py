import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import pytest

from weightwell_engine.exceptions import Busy, TooLarge
from weightwell_service.budget import Matrices, MemoryBudget

T = TypeVar("T")


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


async def settled() -> None:
    """Let all that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


class Holder:
    """A task that enters a context, and leaves it when the test says so."""

    def __init__(self, context: AbstractAsyncContextManager[T]):
        self._leave = asyncio.Event()
        self.inside = False
        self.task = asyncio.ensure_future(self._hold(context))

    async def _hold(self, context: AbstractAsyncContextManager[T]) -> None:
        async with context:
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


# Chunks --------------------------------------------------------------------------------------------------------------


def test_chunks_have_an_eighth_of_the_budget() -> None:
    budget = MemoryBudget(800)
    assert (budget.for_chunks, budget.for_rest) == (100, 700)


def test_a_response_counts_its_least_bytes_or_its_chunks_whichever_are_more() -> None:
    budget = MemoryBudget(8000)

    async def work() -> None:
        async with budget.response(100) as account:
            counted = [budget.chunks]
            for change in (60, 60, 60):
                assert account.take(change)
                counted.append(budget.chunks)
            account.give(60)
            account.give(60)
            counted.append(budget.chunks)
            assert counted == [100, 100, 120, 180, 100]
        assert budget.chunks == 60
        account.give(60)
        assert budget.chunks == 0

    run(work)


def test_more_than_the_least_bytes_are_had_only_where_there_is_room() -> None:
    budget = MemoryBudget(8000)

    async def work() -> None:
        async with budget.response(100) as account, budget.response(100):
            assert account.take(900)
            assert not account.take(1)
            assert account.take(1, necessary=True)

    run(work)


def test_responses_wait_for_memory_in_the_order_of_their_arrival() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        first = Holder(budget.response(60))
        await settled()
        large, small = Holder(budget.response(100)), Holder(budget.response(10))
        await settled()
        assert (first.inside, large.inside, small.inside) == (True, False, False)
        await first.leave()
        await settled()
        assert (large.inside, small.inside) == (True, False)
        await large.leave()
        await settled()
        assert small.inside
        await small.leave()
        assert budget.used == 0

    run(work)


def test_one_response_is_always_let_in() -> None:
    budget = MemoryBudget(8)

    async def work() -> None:
        async with budget.response(100):
            assert budget.chunks == 100

    run(work)


def test_a_request_that_waited_too_long_gets_a_retry_after() -> None:
    clock = Clock()
    budget = MemoryBudget(800, patience=0, clock=clock)

    async def work() -> None:
        async with budget.response(100):
            with pytest.raises(Busy, match="in use by other requests") as told:
                async with budget.response(1):
                    pass
            assert told.value.retry_after == 1
        async with budget.response(100):
            assert budget.chunks == 100

    run(work)


def test_the_time_to_come_again_is_that_of_the_queue() -> None:
    clock = Clock()
    budget = MemoryBudget(800, clock=clock)

    async def work() -> None:
        holders = [Holder(budget.response(100)) for _ in range(4)]
        await settled()
        clock.now = 20.0
        assert budget.waited == 20.0  # the first of those that wait
        await holders[0].leave()
        await settled()
        assert budget._for_responses.retry_after() == 20  # two wait, and those before them took 10 s each on average
        clock.now = 60.0
        assert budget._for_responses.retry_after() == 80  # no request was served for 40 s
        clock.now = 10_000.0
        assert budget._for_responses.retry_after() == 300
        for holder in holders[1:]:
            await holder.leave()

    run(work)


def test_a_cancelled_request_holds_no_memory_and_does_not_block_the_queue() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        first = Holder(budget.response(60))
        await settled()
        leaving, next_one = Holder(budget.response(100)), Holder(budget.response(40))
        await settled()
        leaving.task.cancel()
        await settled()
        assert next_one.inside
        await first.leave()
        await next_one.leave()
        assert budget.used == 0

    run(work)


def test_a_request_that_leaves_when_it_is_served_gives_everything_back() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        first = Holder(budget.response(100))
        await settled()
        leaving = Holder(budget.response(100))
        await settled()
        budget._for_responses._waiting[0][1].add_done_callback(lambda _: leaving.task.cancel())
        await first.leave()
        await settled()
        assert leaving.task.cancelled()
        assert budget.used == 0

    run(work)


# Matrices ------------------------------------------------------------------------------------------------------------


def test_more_memory_than_there_ever_is_is_too_large() -> None:
    budget = MemoryBudget(800)
    budget.check(700)
    with pytest.raises(TooLarge, match="needs 701 bytes of memory, and this server allows 700"):
        budget.check(701)


def test_the_working_memory_of_a_matrix_is_free_between_its_chunks() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        async with budget.matrices(100, 500) as first:
            assert first.begin()
            waiting = Holder(budget.matrices(100, 500))
            await settled()
            assert (budget.rest, waiting.inside) == (600, False)
            first.end()
            await settled()
            assert (budget.rest, waiting.inside) == (700, True)
            assert not first.begin()
            await waiting.leave()
            assert first.begin()
        assert budget.rest == 600  # until the chunk under way ends
        first.end()
        assert budget.rest == 0

    run(work)


def test_a_matrix_that_is_begun_comes_before_those_that_wait_to_begin() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        async with budget.matrices(100, 400) as first, budget.matrices(50, 100) as second:
            assert first.begin()
            first.end()
            new = Holder(budget.matrices(0, 650))
            await settled()
            assert not new.inside
            await asyncio.wait_for(first.begin_in_turn(), 10)
            first.end()
            assert second.begin()
            second.end()
        await settled()
        assert new.inside
        await new.leave()
        assert budget.used == 0

    run(work)


def test_matrices_are_let_in_only_if_each_of_them_can_go_on() -> None:
    budget = MemoryBudget(800)

    async def work() -> None:
        async with budget.matrices(100, 600) as large:
            assert large.begin()
            large.end()
            other = Holder(budget.matrices(1, 1))  # with which the first could never work again
            await settled()
            assert not other.inside
        await settled()
        assert other.inside
        await other.leave()

    run(work)


@pytest.mark.parametrize("begun", [False, True])
def test_memory_of_matrices_is_free_again_after_an_error(begun: bool) -> None:
    budget = MemoryBudget(800)

    async def work(matrices: list[Matrices]) -> None:
        async with budget.matrices(100, 600) as entered:
            matrices.append(entered)
            if begun:
                entered.begin()
            _ = 1 / 0

    matrices: list[Matrices] = []
    with pytest.raises(ZeroDivisionError):
        run(lambda: work(matrices))
    if begun:
        matrices[0].end()
    assert budget.used == 0


# Plans and bodies ----------------------------------------------------------------------------------------------------


def test_a_plan_counts_for_its_lifetime() -> None:
    class Owner:
        """Something that is held."""

    budget, owner = MemoryBudget(800), Owner()
    budget.hold(owner, 600)
    with pytest.raises(Busy):
        budget.hold(Owner(), 101)
    del owner
    gc.collect()
    assert budget.rest == 0


def test_a_body_counts_as_it_grows() -> None:
    budget = MemoryBudget(800)
    with budget.body() as count, budget.body() as other:
        count(500)
        other(200)
        with pytest.raises(Busy):
            count(1)
        assert budget.rest == 700
    assert budget.rest == 0


def test_bodies_share_a_limit_of_their_own() -> None:
    budget = MemoryBudget(8000, for_bodies=1000)
    with budget.body() as other:
        with budget.body() as count:
            count(700)
            other(200)
            with pytest.raises(Busy, match="for request bodies"):
                other(101)
            budget.take(3000)
            count(100)
        other(800)
    assert (budget.bodies, budget.rest) == (0, 3000)
