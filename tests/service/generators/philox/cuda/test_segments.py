"""What is to be drawn is divided into what lanes can draw, and goes where it belongs."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_service.generators.philox.cuda import fields, segments
from weightwell_service.generators.philox.cuda.fields import ROW
from weightwell_service.generators.philox.cuda.launches import launch
from weightwell_service.generators.philox.cuda.segments import Program, Segment, law_row, spans
from weightwell_service.regions import Runs

small = st.integers(0, 40)
runs = st.builds(Runs, small, st.integers(1, 40), st.integers(40, 60), st.integers(1, 5))


@given(runs=runs, target=small)
def test_the_spans_of_runs_are_all_of_their_elements_in_order(runs: Runs, target: int) -> None:
    drawn: list[int] = []
    for span in spans(runs, target):
        assert span.target == target + len(drawn)
        drawn += [span.lane * i + k for i in _indices(span.runs) for k in range(span.lane)]
    assert drawn == _indices(runs)


@given(first=small, length=st.integers(1, 100), target=small)
def test_a_run_is_drawn_in_fours_where_its_blocks_are_written_at_multiples_of_four(
    first: int, length: int, target: int
) -> None:
    divided = list(spans(Runs(first, length, 0, 1), target))
    singles = sum(span.runs.size for span in divided if span.lane == 1)
    assert all(span.target % 4 == 0 for span in divided if span.lane == 4)
    assert singles <= 6 if (first - target) % 4 == 0 else singles == length


def _indices(runs: Runs) -> list[int]:
    return [runs.first + j * runs.stride + i for j in range(runs.count) for i in range(runs.length)]


class Recorder:
    """A kernel that notes what it is launched with."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, np.ndarray[Any, Any], int]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda _, table, start, **__: self.launches.append((grid[0], table.numpy(), start))


def test_one_launch_draws_all_segments_of_a_program_and_each_program_finds_its_own() -> None:
    first, second = Recorder(), Recorder()
    some, others = Program(first, 4, 1), Program(second, 2, 1, share=4)
    tile = segments.TILE
    work = [
        Segment(some, law_row(target=1), 3 * tile),
        Segment(others, law_row(target=2), tile),
        Segment(some, law_row(target=3), tile + 1),
    ]
    launch(work, torch.empty(8, dtype=torch.uint8))
    assert _found(first) == [[(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]]
    assert _found(second) == [[(2, 0), (2, 1), (2, 2), (2, 3)]]


def _found(kernel: Recorder) -> list[list[tuple[int, int]]]:
    """Return, for every program of every launch, the target of its row and the number of its tile."""
    return [[_row(table, start + program) for program in range(programs)] for programs, table, start in kernel.launches]


def _row(table: Any, owner: int) -> tuple[int, int]:
    fields = ROW.itemsize // 8
    row = table[table[owner] * fields :][:fields].view(ROW)[0]
    return int(row["target"]), int(owner - row["begin"])


def test_kernels_find_every_field_where_it_is() -> None:
    assert [getattr(fields, name.upper()).value for name in ROW.names or ()] == list(range(ROW.itemsize // 8))
    assert [offset for _, offset, *_ in (ROW.fields or {}).values()] == list(range(0, ROW.itemsize, 8))


def test_nothing_is_launched_for_nothing() -> None:
    launch([], torch.empty(0, dtype=torch.uint8))


def test_an_unknown_field_is_no_row() -> None:
    with pytest.raises(ValueError, match="no field of name width_of_the_window"):
        law_row(width_of_the_window=1)
