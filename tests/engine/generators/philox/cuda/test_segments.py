"""Segments: runs are divided into groups for lanes, with the right targets."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.generators.philox.cuda import fields, segments
from weightwell_engine.generators.philox.cuda.fields import ROW
from weightwell_engine.generators.philox.cuda.launches import launch
from weightwell_engine.generators.philox.cuda.segments import Program, Segment, law_row, spans
from weightwell_engine.regions import Runs

PATIENCE = 30.0

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
    """A kernel that records its arguments."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, np.ndarray[Any, Any]]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        def note(_: torch.Tensor, table: torch.Tensor, start: int, count: int, **__: Any) -> None:
            self.launches.append((grid[0], table.numpy().view(ROW)[start:][:count]))

        return note


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
    return [[_row(rows, program) for program in range(programs)] for programs, rows in kernel.launches]


def _row(rows: Any, program: int) -> tuple[int, int]:
    row = rows[rows["begin"] <= program][-1]
    return int(row["target"]), int(program - row["begin"])


def test_what_writes_over_other_elements_is_launched_when_they_are_there() -> None:
    order: list[str] = []
    kernels = {name: Named(name, order) for name in ("zeros", "points", "more zeros")}
    programs = {name: Program(kernel, 4, 1, over=name == "points") for name, kernel in kernels.items()}
    launch([Segment(program, law_row(), 1) for program in programs.values()], torch.empty(4, dtype=torch.uint8))
    assert order == ["zeros", "more zeros", "points"]


class Named:
    """A kernel that notes that it is launched, in an order that it shares with others."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda *_, **__: self.order.append(self.name)


class Loading:
    """A kernel that takes time to be loaded, once for each version, or fails, and as Triton's may not be hurried."""

    def __init__(self, *, fails: bool = False) -> None:
        self.device_caches: dict[int, tuple[dict[str, Any], str]] = {0: ({}, "more that Triton keeps")}
        self.fails = fails
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.launched = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        return self._launch

    def _launch(self, *_: Any, **__: Any) -> None:
        versions = self.device_caches[0][0]
        if "version" not in versions:
            versions["version"] = SimpleNamespace(module=None)
            self.began.set()
            self.may_end.wait(PATIENCE)
            if self.fails:
                raise RuntimeError("Triton Error [CUDA]: out of memory")
            versions["version"].module = object()
        assert versions["version"].module, "it is launched before it is loaded"
        self.launched += 1


def _launch_once(kernel: Loading) -> None:
    launch([Segment(Program(kernel, 4, 1), law_row(), 1)], torch.empty(4, dtype=torch.uint8))


def test_a_kernel_that_one_thread_loads_is_not_launched_by_another_before() -> None:
    kernel = Loading()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(_launch_once, kernel)
        assert kernel.began.wait(PATIENCE)
        second = threads.submit(_launch_once, kernel)
        assert wait([second], 0.05).not_done
        kernel.may_end.set()
        first.result()
        second.result()
    assert kernel.launched == 2


def test_a_kernel_that_could_not_be_loaded_is_loaded_when_there_is_memory_again() -> None:
    kernel = Loading(fails=True)
    kernel.may_end.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        _launch_once(kernel)
    kernel.fails = False
    _launch_once(kernel)
    assert kernel.launched == 1


def test_kernels_find_every_field_where_it_is() -> None:
    assert [getattr(fields, name.upper()).value for name in ROW.names or ()] == list(range(ROW.itemsize // 8))
    assert [offset for _, offset, *_ in (ROW.fields or {}).values()] == list(range(0, ROW.itemsize, 8))


def test_nothing_is_launched_for_nothing() -> None:
    launch([], torch.empty(0, dtype=torch.uint8))


def test_an_unknown_field_is_no_row() -> None:
    with pytest.raises(ValueError, match="no field of name width_of_the_window"):
        law_row(width_of_the_window=1)
