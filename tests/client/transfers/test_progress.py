"""A progress bar is shown on request or if it is useful, and counts every byte once."""

import sys
from types import ModuleType
from typing import Any

import pytest

from weightwell.transfers import progress
from weightwell.transfers.progress import LONG, STEP, Progress


class Bar:
    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.updates: list[int] = []
        self.closed = False

    def update(self, count: int) -> None:
        self.updates.append(count)

    def reset(self, total: int) -> None:
        self.total = total
        self.updates.clear()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars that were shown."""
    shown: list[Bar] = []

    def show(label: str, total: int) -> Bar:
        shown.append(Bar(label, total))
        return shown[-1]

    monkeypatch.setattr(progress, "_bar", show)
    return shown


@pytest.mark.parametrize(
    ("wanted", "total", "watched", "shown"),
    [
        (None, LONG, True, True),
        (None, LONG, False, False),
        (None, LONG - 1, True, False),
        (True, 1, False, True),
        (False, LONG, True, False),
    ],
)
def test_a_bar_is_shown_where_it_is_wanted_or_helps(
    bars: list[Bar], monkeypatch: pytest.MonkeyPatch, wanted: bool | None, total: int, watched: bool, shown: bool
) -> None:
    monkeypatch.setattr(progress, "watched", lambda: watched)
    Progress("ones", wanted).start(total)
    assert [bar.total for bar in bars] == ([total] if shown else [])


def test_every_byte_is_counted_once_in_large_steps(bars: list[Bar]) -> None:
    bar = Progress("ones", wanted=True)
    bar.start(3 * STEP + 5)
    for _ in range(6):
        bar.advance(STEP // 2)
    bar.advance(5)
    bar.close()
    assert bars[0].updates == [STEP, STEP, STEP, 5]
    assert bars[0].closed


def test_a_body_that_starts_over_is_counted_from_zero(bars: list[Bar]) -> None:
    bar = Progress("ones", wanted=True)
    bar.start(2 * STEP)
    bar.advance(STEP + 1)
    bar.start(STEP)
    bar.advance(STEP)
    bar.close()
    assert len(bars) == 1
    assert (bars[0].total, sum(bars[0].updates)) == (STEP, STEP)


def test_what_was_there_before_counts_and_is_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    bar: Any = Progress("ones", wanted=True)
    bar.start(4 * STEP)
    bar.skip(3 * STEP)
    assert "ones:  75%" in capsys.readouterr().err
    assert bar._bar.format_dict["initial"] == 3 * STEP
    bar.advance(STEP)
    bar.close()
    assert "ones: 100%" in capsys.readouterr().err


def test_a_terminal_and_a_notebook_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not progress.watched()
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert progress.watched()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress.watched()


def test_the_bar_is_that_of_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    bar: Any = Progress("ones [4] float32", wanted=True)
    bar.start(STEP)
    bar.advance(STEP)
    bar.close()
    assert "ones [4] float32: 100%" in capsys.readouterr().err
