"""Waits: they grow, they differ, they end, and they respect what the server asks for."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.transfers.retry import Retry, seconds_of


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_between_half_of_the_backoff_and_all_of_it(failures: int, draw: float) -> None:
    wait = Retry(limit=10_000, random=lambda: draw).wait(failures)
    backoff = min(0.5 * 2 ** min(failures - 1, 10), 30)
    assert wait is not None
    assert backoff / 2 <= wait <= backoff


def test_the_limit_is_the_number_of_failures_forgiven() -> None:
    retry = Retry(limit=2)
    assert retry.wait(2) is not None
    assert retry.wait(3) is None
    assert Retry(limit=0).wait(1) is None


@given(st.floats(0, 30))
def test_no_wait_is_shorter_than_the_server_asks(asked: float) -> None:
    wait = Retry().wait(1, asked)
    assert wait is not None
    assert asked <= wait <= asked + 0.5


def test_a_server_that_asks_for_too_long_is_not_waited_for() -> None:
    assert Retry(longest=30).wait(1, 31) is None


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
