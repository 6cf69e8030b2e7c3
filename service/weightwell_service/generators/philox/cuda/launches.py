"""Launches: the parts of any number of tensors, drawn into a buffer on the device by few launches."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, chain
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightwell_service.generators.philox.cuda.fields import ROW
from weightwell_service.generators.philox.cuda.segments import Program, Segment

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""What elements of each size are written as."""

_interpreter = RLock()


def launch(work: Iterable[Segment], out: torch.Tensor) -> None:
    """Enqueue the programs of segments, which write into ``out`` (n, uint8): one launch for each that there are.

    They are in the order of their first segments, so that a segment may be written over by another program's, later.
    """
    groups: dict[Program, list[Segment]] = {}
    for segment in work:
        groups.setdefault(segment.program, []).append(segment)
    if not groups:
        return
    counts = [[-(-segment.items // program.tile) for segment in group] for program, group in groups.items()]
    ordered = list(chain.from_iterable(groups.values()))
    table, owners = _table(ordered, list(chain.from_iterable(counts)))
    uploaded = _upload(table, out.device)
    starts = accumulate((sum(group) for group in counts), initial=owners)
    for program, start, group in zip(groups, starts, counts, strict=False):
        usable = out[: out.numel() // program.itemsize * program.itemsize]
        typed = usable.view(INTEGERS[program.itemsize])
        program.kernel[sum(group),](typed, uploaded, start, **program.arguments)


def _table(work: Sequence[Segment], counts: Sequence[int]) -> tuple[NDArray[np.int64], int]:
    """Return the rows with the owners behind them, as 64-bit integers, and where the owners begin."""
    rows = np.array([segment.row for segment in work], ROW)
    first = rows.view(np.int64).size
    rows["begin"] = first + np.cumsum(counts) - counts
    owners = np.repeat(np.arange(len(work)), counts)
    return np.concatenate((rows.view(np.int64), owners)), first


def _upload(table: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    host = torch.from_numpy(table)
    # Pinned, so that the host need not wait for the copy; torch keeps the memory until it is done.
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device current. On a CPU, which is Triton's interpreter, wait for the turn of this thread."""
    return _interpreter if device.type == "cpu" else torch.cuda.device(device)
