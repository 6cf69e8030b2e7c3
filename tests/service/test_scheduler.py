import errno
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from weightwell_service.scheduler import Requester, Scheduler, checked

PATIENCE = 30.0


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(log: list[str], name: str, units: int = 1) -> Generator[None, None, str]:
    """Say in a log whose turn it is, unit by unit."""
    for unit in range(units):
        log.append(name)
        if unit < units - 1:
            yield
    return name


def last(log: list[str], name: str) -> int:
    """Return after how many units the last of a name was done."""
    return len(log) - 1 - log[::-1].index(name)


@contextmanager
def held(turns: Scheduler) -> Iterator[None]:
    """Keep the only thread from beginning anything until the end of the context."""
    begun, go = threading.Event(), threading.Event()

    def wait() -> Generator[None, None, None]:
        begun.set()
        assert go.wait(PATIENCE)
        yield from ()

    turns.submit(wait(), Requester("held", small=True))
    assert begun.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()


@pytest.fixture
def turns() -> Iterator[Scheduler]:
    turns = Scheduler(1, "draw")
    yield turns
    turns.shutdown()


def test_a_job_returns_the_value_of_its_generator(turns: Scheduler) -> None:
    assert turns.submit(job([], "a", 3), Requester("client", small=False)).result(PATIENCE) == "a"


def test_a_job_that_fails_fails_its_future_and_nothing_else(turns: Scheduler) -> None:
    def failing() -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError

    requester = Requester("client", small=False)
    with pytest.raises(ZeroDivisionError):
        turns.submit(failing(), requester).result(PATIENCE)
    assert turns.submit(job([], "next"), requester).result(PATIENCE) == "next"


def test_a_small_request_comes_before_64_large_ones_that_wait(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        large = [turns.submit(job(log, "large", 5), Requester(f"client {n}", small=False)) for n in range(64)]
        small = turns.submit(job(log, "small"), Requester("another", small=True))
    small.result(PATIENCE)
    assert log.index("small") <= 1
    assert [each.result(PATIENCE) for each in large] == 64 * ["large"]


def test_large_requests_go_on_while_small_ones_come_without_end(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        for number in range(100):
            turns.submit(job(log, "small"), Requester(f"client {number}", small=True))
        large = turns.submit(job(log, "large", 5), Requester("another", small=False))
    large.result(PATIENCE)
    assert last(log, "large") < 5 * 8


def test_a_client_with_200_requests_has_the_turns_of_a_client_with_one(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        for _ in range(200):
            turns.submit(job(log, "many", 10), Requester("many", small=False))
        one = turns.submit(job(log, "one", 50), Requester("one", small=False))
    one.result(PATIENCE)
    assert log[: last(log, "one")].count("many") <= 51


def test_requests_of_a_client_take_turns(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        done = [turns.submit(job(log, name, 3), Requester("client", small=False)) for name in "abc"]
    assert [each.result(PATIENCE) for each in done] == ["a", "b", "c"]
    assert "".join(log) == "abcabcabc"


def test_jobs_of_a_request_come_in_their_order(turns: Scheduler) -> None:
    log: list[str] = []
    requester = Requester("client", small=False)
    with held(turns):
        done = [turns.submit(job(log, name, 3), requester) for name in "abc"]
    assert [each.result(PATIENCE) for each in done] == ["a", "b", "c"]
    assert "".join(log) == "aaabbbccc"


def test_a_job_that_is_cancelled_before_its_turn_is_not_begun(turns: Scheduler) -> None:
    log: list[str] = []
    requester = Requester("client", small=False)
    with held(turns):
        cancelled, other = turns.submit(job(log, "cancelled"), requester), turns.submit(job(log, "other"), requester)
        assert cancelled.cancel()
    other.result(PATIENCE)
    assert log == ["other"]


# Shares --------------------------------------------------------------------------------------------------------------


def test_a_client_with_a_share_of_three_has_three_turns_for_one_of_the_others(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        done = [turns.submit(job(log, name, 40), Requester(name, small=False)) for name in "ab"]
        turns.submit(job(log, "c", 120), Requester("c", small=False, share=3))
        # One request, or many: the share is that of the client.
        done += [turns.submit(job(log, "d", 1), Requester("d", small=False, share=3)) for _ in range(120)]
    assert [each.result(PATIENCE) for each in done]
    assert "".join(log).startswith("abcccddd" * 39)


def test_a_share_counts_for_the_same_client_in_every_round_and_nobody_waits_for_more_than_one(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        for _ in range(3):
            turns.submit(job(log, "large", 1000), Requester("large", small=False, share=100))
        one = turns.submit(job(log, "one", 5), Requester("one", small=False))
    one.result(PATIENCE)
    assert log.index("one") == 100
    assert last(log, "one") == 4 * 101 + 100


def test_clients_that_come_without_end_do_not_keep_others_waiting(turns: Scheduler) -> None:
    log: list[str] = []

    def endless(number: int) -> Generator[None, None, None]:
        log.append("new")
        if log.count("old") < 3:
            for each in (2 * number + 1, 2 * number + 2):
                turns.submit(endless(each), Requester(f"client {each}", small=False, share=9))
        yield

    with held(turns):
        turns.submit(endless(0), Requester("first", small=False))
        old = turns.submit(job(log, "old", 3), Requester("old", small=False))
    assert old.result(PATIENCE) == "old"
    assert last(log, "old") < 30


def test_clients_that_have_gone_are_forgotten(turns: Scheduler) -> None:
    with held(turns):
        waiting = turns.submit(job([], "long", 400), Requester("long", small=False))
        done = [turns.submit(job([], "one"), Requester(f"client {n}", small=False)) for n in range(1000)]
    assert [each.result(PATIENCE) for each in (*done, waiting)]
    assert len(turns._large._clients) <= 2


# Batch ---------------------------------------------------------------------------------------------------------------


def test_a_batch_request_has_the_turns_that_nobody_else_wants(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        batch = turns.submit(job(log, "b", 10), Requester("batch", small=True, batch=True, share=50))
        turns.submit(job(log, "l", 10), Requester("large", small=False))
        turns.submit(job(log, "s", 2), Requester("small", small=True))
    batch.result(PATIENCE)
    assert "".join(log) == "ss" + 10 * "l" + 10 * "b"


def test_while_others_wait_without_end_a_batch_request_has_one_turn_in_32(turns: Scheduler) -> None:
    log: list[str] = []
    with held(turns):
        for name in ("large", "another"):
            turns.submit(job(log, name, 10_000), Requester(name, small=False))
        batch = turns.submit(job(log, "batch", 10), Requester("batch", small=False, batch=True))
    batch.result(PATIENCE)
    places = [place for place, name in enumerate(log) if name == "batch"]
    assert {after - before for before, after in pairwise(places)} == {32}


# CPU time ------------------------------------------------------------------------------------------------------------


def test_the_cpu_time_of_a_request_is_that_of_all_its_units_and_is_checked_before_each() -> None:
    clock, seen, log = Clock(), list[float](), list[str]()

    def working(units: int) -> Generator[None, None, str]:
        for _ in range(units):
            clock.now += 0.5
            log.append("unit")
            yield
        return "done"

    def check(used: float) -> None:
        seen.append(used)
        if used > 1.0:
            raise ZeroDivisionError

    turns = Scheduler(1, "draw", cpu=clock)
    requester = Requester("client", small=False, check=check)
    first = turns.submit(checked(working(1), requester), requester)
    assert first.result(PATIENCE) == "done"
    with pytest.raises(ZeroDivisionError):
        turns.submit(checked(working(9), requester), requester).result(PATIENCE)
    assert seen == [0.0, 0.5, 0.5, 1.0, 1.5]
    assert len(log) == 3
    turns.shutdown()


# The clock -----------------------------------------------------------------------------------------------------------


def test_threads_that_are_stuck_are_seen_by_the_clock() -> None:
    clock = Clock()
    turns = Scheduler(1, "draw", clock=clock)
    clock.now = 100.0
    assert turns.waited() == 0
    with held(turns):
        queued = turns.submit(job([], "queued"), Requester("client", small=False))
        clock.now = 130.0
        assert turns.waited() == 30
    queued.result(PATIENCE)
    turns.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux has a thread a niceness of its own")
def test_the_threads_give_way_to_the_event_loop(turns: Scheduler) -> None:
    def niceness() -> Generator[None, None, int]:
        yield
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert turns.submit(niceness(), Requester("client", small=True)).result(PATIENCE) == min(before + 5, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux has a thread a niceness of its own")
def test_a_sandbox_that_forbids_a_lower_priority_stops_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "nice", forbidden)
    turns = Scheduler(1, "draw")
    assert turns.submit(job([], "a"), Requester("client", small=True)).result(PATIENCE) == "a"
    turns.shutdown()
