import asyncio
from collections.abc import Callable
from threading import Event

import pytest

from weightwell_engine.exceptions import Busy
from weightwell_service.parse_queues import Lane, Lanes


async def present() -> bool:
    return False


async def departed() -> bool:
    return True


class Reader:
    """Specs that are parsed when the test says so; ``read`` has their names in the order of parsing."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.begun, self.released = Event(), Event()

    def long(self) -> str:
        self.begun.set()
        assert self.released.wait(10)
        self.read.append("long")
        return "long"

    def short(self, name: str = "short") -> Callable[[], str]:
        def read() -> str:
            self.read.append(name)
            return name

        return read


async def occupied(lane: Lane, reader: Reader) -> "asyncio.Task[str]":
    """Return the task of a spec that is being read, and holds the lane's turn."""
    task = asyncio.create_task(lane.run(reader.long, present))
    await asyncio.to_thread(reader.begun.wait, 10)
    return task


def test_specs_are_read_one_at_a_time_in_the_order_in_which_they_came() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=3), Reader()
        first = await occupied(lane, reader)
        others = [asyncio.create_task(lane.run(reader.short(name), present)) for name in "abc"]
        await asyncio.sleep(0)
        assert reader.read == []
        reader.released.set()
        assert await asyncio.gather(first, *others) == ["long", "a", "b", "c"] == reader.read
        lane.shutdown()

    asyncio.run(scenario())


def test_more_requests_than_may_wait_are_refused_at_once() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=1), Reader()
        first = await occupied(lane, reader)
        second = asyncio.create_task(lane.run(reader.short(), present))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="1 requests with long specs are waiting; try again"):
            await lane.run(reader.short("refused"), present)
        reader.released.set()
        await asyncio.gather(first, second)
        assert await lane.run(reader.short("later"), present) == "later"
        assert reader.read == ["long", "short", "later"]
        lane.shutdown()

    asyncio.run(scenario())


def test_a_request_whose_turn_does_not_come_in_time_is_refused_and_never_read() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=1, patience=0), Reader()
        first = await occupied(lane, reader)
        with pytest.raises(Busy, match="not read within 0 s"):
            await lane.run(reader.short(), present)
        reader.released.set()
        await first
        assert reader.read == ["long"]
        lane.shutdown()

    asyncio.run(scenario())


def test_the_spec_of_a_client_that_has_gone_is_not_read() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=1), Reader()
        with pytest.raises(Busy, match="closed the connection"):
            await lane.run(reader.short(), departed)
        assert await lane.run(reader.short("next"), present) == "next"
        assert reader.read == ["next"]
        lane.shutdown()

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_while_it_waits_gives_up_its_place() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=1), Reader()
        first = await occupied(lane, reader)
        waiting = asyncio.create_task(lane.run(reader.short("cancelled"), present))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second = asyncio.create_task(lane.run(reader.short(), present))
        await asyncio.sleep(0)
        reader.released.set()
        await asyncio.gather(first, second)
        assert reader.read == ["long", "short"]
        lane.shutdown()

    asyncio.run(scenario())


def test_the_turn_goes_on_after_a_spec_that_cannot_be_read() -> None:
    async def scenario() -> None:
        lane, reader = Lane("read", most=1), Reader()
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0, present)
        assert await lane.run(reader.short(), present) == "short"
        lane.shutdown()

    asyncio.run(scenario())


def test_specs_of_very_different_lengths_have_different_lanes() -> None:
    lanes = Lanes()
    assert lanes.of(0) is lanes.of(2**16)
    assert lanes.of(2**16 + 1) is lanes.of(2**20)
    assert lanes.of(2**20 + 1) is lanes.of(2**40)
    assert len({lanes.of(0), lanes.of(2**20), lanes.of(2**40)}) == 3
    lanes.shutdown()
