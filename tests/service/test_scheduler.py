import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from weightwell_service.scheduler import Requester, Scheduler

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
