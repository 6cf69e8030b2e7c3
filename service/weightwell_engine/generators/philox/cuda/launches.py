"""Launches: draw the parts of any number of tensors into a device buffer, with few launches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from threading import Lock, RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cuda.fields import ROW
from weightwell_engine.generators.philox.cuda.segments import Program, Segment

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type with which elements of each size are written."""

_interpreter = RLock()

_loading = Lock()
_loaded: set[tuple[Program, torch.device]] = set()


def launch(work: Iterable[Segment], out: torch.Tensor) -> None:
    """Enqueue the programs of segments, which write into ``out`` (n, uint8): one launch for each different program.

    Programs that overwrite elements of others come last.
    """
    groups: dict[Program, list[Segment]] = {}
    for segment in work:
        groups.setdefault(segment.program, []).append(segment)
    if not groups:
        return
    ordered = sorted(groups.items(), key=lambda group: group[0].over)
    counts = [[-(-segment.items // program.tile) for segment in group] for program, group in ordered]
    table = _upload([_rows(group, count) for (_, group), count in zip(ordered, counts, strict=True)], out.device)
    starts = accumulate((len(group) for _, group in ordered), initial=0)
    for (program, group), count, start in zip(ordered, counts, starts, strict=False):
        usable = out[: out.numel() // program.itemsize * program.itemsize]
        typed = usable.view(INTEGERS[program.itemsize])
        _enqueue(program, sum(count), typed, table, start, len(group))


def _rows(group: Sequence[Segment], counts: Sequence[int]) -> NDArray[np.void]:
    """Return the rows of a launch and the number of its programs."""
    rows = np.array([segment.row for segment in group], ROW)
    rows["begin"] = np.cumsum(counts) - counts
    return rows


def _upload(rows: Sequence[NDArray[np.void]], device: torch.device) -> torch.Tensor:
    """Return a table of rows as 64-bit integers on the device."""
    host = torch.from_numpy(np.concatenate(rows).view(np.int64))
    # Pinned, so that the host does not wait for the copy. torch keeps the memory until the copy is done.
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def _enqueue(program: Program, programs: int, out: torch.Tensor, *arguments: torch.Tensor | int) -> None:
    """Launch a number of instances of a program."""
    known = program, out.device
    with nullcontext() if known in _loaded else _being_loaded(program.kernel):
        program.kernel[programs,](out, *arguments, **program.arguments)
    _loaded.add(known)


@contextmanager
def _being_loaded(kernel: Any) -> Iterator[None]:
    """Serialize the first launch of a kernel.

    Triton would give a kernel to another thread before it is loaded. Triton also caches a kernel that failed to load
    because memory ran out, and would fail for ever. Such a kernel is removed from its cache.
    """
    with _loading:
        try:
            yield
        except RuntimeError:
            for compiled, *_ in kernel.device_caches.values():
                for key in [key for key, version in compiled.items() if version.module is None]:
                    del compiled[key]
            raise


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device current. Triton's interpreter (device CPU) runs one thread at a time, so take a lock."""
    return _interpreter if device.type == "cpu" else torch.cuda.device(device)
