"""Connections are added for as long as they raise the rate, and no longer."""

import pytest

from weightwell.transfers.growth import Growth

GIB = 1 << 30


class Line:
    """A transfer over connections that carry ``each`` bytes a second, and ``together`` at most."""

    def __init__(self, *, each: float, together: float = float("inf"), limit: int = 8, latency: float = 0.0):
        self.now, self.received, self.connections = 0.0, 0.0, 1
        self._each, self._together, self._latency = each, together, latency
        self.growth = Growth(limit, lambda: self.now)

    def go(self, seconds: float, missing: int = 100 * GIB) -> int:
        """Let some time pass; return the number of connections then."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.received += 0.05 * min(self.connections * self._each, self._together)
            left = max(0, missing - int(self.received))
            self.connections += self.growth.more(self.connections, int(self.received), left, self._latency)
        return self.connections


def test_slow_lines_get_all_the_connections_there_may_be() -> None:
    assert Line(each=1e6).go(2) == 8


def test_the_limit_may_be_any_number() -> None:
    assert Line(each=1e6, limit=5).go(2) == 5


def test_one_connection_that_carries_everything_gets_one_companion_to_see() -> None:
    assert Line(each=1e9, together=1e9).go(10) == 2


def test_growth_ends_where_it_brings_nothing_more() -> None:
    assert Line(each=1e8, together=3e8).go(10) == 8
    assert Line(each=1e8, together=2e8).go(10) == 4


def test_what_is_nearly_done_is_left_to_those_who_do_it() -> None:
    assert Line(each=1e9).go(0.9, missing=GIB) == 1


def test_a_connection_that_would_begin_too_late_is_not_made() -> None:
    assert Line(each=1e6, latency=30.0).go(10, missing=100 << 20) == 1
    assert Line(each=1e6, latency=1.0).go(10, missing=100 << 20) == 8


def test_the_time_in_which_a_connection_has_not_answered_does_not_count() -> None:
    line = Line(each=1e6)
    for _ in range(100):
        line.growth.begin(int(line.received))
        line.go(0.2)
    assert line.connections == 1


@pytest.mark.parametrize("limit", [0, 1])
def test_a_limit_of_one_is_no_growth(limit: int) -> None:
    line = Line(each=1e6, limit=limit)
    assert line.growth.over
    assert line.go(10) == 1
