"""Pauses between retries: they grow, vary at random, end in time, and obey Retry-After."""

import copy
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.transfers.retry import Failures, Pause, Retry, seconds_of


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_between_half_of_the_backoff_and_all_of_it(count: int, draw: float) -> None:
    failures = Failures(Retry(1e6, random=lambda: draw, clock=lambda: 0.0))
    *_, pause = (failures.pause() for _ in range(count))
    backoff = min(0.5 * 2 ** min(count - 1, 10), 30)
    assert pause is not None
    assert backoff / 2 <= pause.seconds <= backoff


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 100), max_size=20), st.floats(0, 1, exclude_max=True))
def test_attempts_go_on_for_the_time_that_is_set_and_no_longer(wait: float, attempts: list[float], draw: float) -> None:
    clock = Clock()
    failures, began = Failures(Retry(wait, random=lambda: draw, clock=clock)), clock.now
    for seconds in [*attempts, *[0.0] * 1000]:
        pause = failures.pause()
        if pause is None:
            break
        assert pause.left == pytest.approx(began + wait - clock.now)
        assert clock.now + pause.seconds <= began + wait + 1e-9
        clock.now += pause.seconds + seconds
    assert clock.now >= began + wait - 1e-9  # the last attempt is made when the time is up


def test_something_gained_begins_the_time_anew() -> None:
    clock = Clock()
    failures = Failures(Retry(10, clock=clock))
    assert failures.pause()
    clock.now += 9
    failures.forget()
    clock.now += 9
    pause = failures.pause()
    assert pause is not None
    assert pause.left == 10


def test_without_a_wait_it_is_seconds_until_a_server_has_answered_and_then_minutes() -> None:
    retry = Retry()
    assert retry.budget == 3
    retry.answered = True
    assert retry.budget == 300
    assert Retry(7, answered=True).budget == 7


def test_a_pause_says_how_long_it_will_go_on() -> None:
    assert str(Pause(1.25, 297.4)) == "in 1.2 s, for up to 297 s more; wait= sets this"


@given(st.floats(0, 300))
def test_no_pause_is_shorter_than_the_server_asks(asked: float) -> None:
    pause = Failures(Retry(300)).pause(asked)
    assert pause is not None
    assert asked <= pause.seconds <= min(asked + 0.5, 300)


def test_a_server_that_asks_for_more_than_the_time_that_is_left_is_not_waited_for() -> None:
    assert Failures(Retry(30)).pause(31) is None


def test_a_copy_has_the_same_wait_and_has_met_no_server() -> None:
    retry = Retry(7, answered=True, random=lambda: 0.5)
    copies = [copy.deepcopy(retry), pickle.loads(pickle.dumps(retry))]  # noqa: S301 - our own bytes
    assert copies == [Retry(7)] * 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("-5", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:30 -0000", 30.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text, now=datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds
