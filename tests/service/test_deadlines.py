from weightwell_service.server.deadlines import LINGER, Deadlines, Phase, Watch

DEADLINES = Deadlines(head=20, window=60, rate=1000)


def late_after(phase: Phase, moved_per_second: int, until: int = 1000) -> int | None:
    """Return the second in which a connection is too slow that moves so many bytes a second."""
    watch = Watch()
    seconds = (n for n in range(until) if watch.overdue(phase, 1, n * moved_per_second, n, DEADLINES) is not None)
    return next(seconds, None)


def test_a_head_has_its_seconds_however_much_arrives() -> None:
    assert late_after(Phase.HEAD, 0) == late_after(Phase.HEAD, 10**6) == 20


def test_a_body_and_a_reader_are_judged_by_their_rate() -> None:
    for phase in (Phase.BODY, Phase.READER):
        assert late_after(phase, 0) == late_after(phase, 999) == 60
        assert late_after(phase, 1000) is None


def test_bursts_are_averaged_over_the_window() -> None:
    watch = Watch()
    for n in range(600):
        assert watch.overdue(Phase.READER, 0, n // 55 * 60_000, n, DEADLINES) is None


def test_a_client_that_stops_after_a_fast_beginning_is_late_in_the_next_window() -> None:
    watch = Watch()
    late = [n for n in range(200) if watch.overdue(Phase.READER, 0, min(n, 30) * 10**6, n, DEADLINES) is not None]
    assert late[0] == 120


def test_another_phase_or_request_begins_anew() -> None:
    watch = Watch()
    for n in range(100):
        assert watch.overdue((Phase.HEAD, Phase.BODY)[n // 10 % 2], 1, 0, n, DEADLINES) is None
        assert watch.overdue(Phase.HEAD, n, 0, n, DEADLINES) is None


def test_there_is_no_deadline_while_the_server_works() -> None:
    assert [Watch().overdue(None, 0, 0, n, DEADLINES) for n in range(1000)] == [None] * 1000


def test_a_refused_client_has_a_few_seconds_to_read() -> None:
    assert late_after(Phase.LINGER, 10**6) == LINGER
