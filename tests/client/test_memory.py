"""Memory for tensors: the requested size, aligned, and not shared."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weightwell import memory
from weightwell.memory import MAPPED, POPULATE_WRITE, allocate, free_pages_are_reported, make_present


@pytest.mark.parametrize("size", [8, MAPPED - 8, MAPPED, MAPPED + 8])
def test_memory_is_writable_and_aligned(size: int) -> None:
    array = np.frombuffer(allocate(size), np.uint8)
    assert (array.size, array.flags.writeable) == (size, True)
    assert array.ctypes.data % 8 == 0


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=str(1 << 60)):
        allocate(1 << 60)


def test_the_pages_of_large_memory_are_taken_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(memory, "_madvise", lambda: lambda *call: calls.append(call))
    array = np.ones(4 * MAPPED, np.uint8)
    make_present(array.data[5 : MAPPED + 7])
    make_present(array.data[: MAPPED - 1])  # too little
    [(first, size, advice)] = calls
    assert (first % mmap.PAGESIZE, advice) == (0, POPULATE_WRITE)
    assert first <= array.ctypes.data + 5 < first + mmap.PAGESIZE
    assert first + size == array.ctypes.data + MAPPED + 7


def test_memory_keeps_its_bytes_when_its_pages_are_taken() -> None:
    array = np.arange(MAPPED, dtype=np.uint32)
    make_present(array.data.cast("B")[12:])
    assert (array == np.arange(MAPPED)).all()


def test_what_a_forked_process_writes_stays_its_own() -> None:
    # A mapping is shared by default, and every worker would then train the same weights.
    program = """
import os
from weightwell.memory import MAPPED, allocate
memory = allocate(MAPPED)
if (child := os.fork()) == 0:
    memory[0] = 7
    os._exit(0)
os.waitpid(child, 0)
print(memory[0])
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("text", "reported"),
    [("9\n", True), ("10\n", True), ("4294967295\n", False), ("-1\n", False), ("", False), (None, False)],
)
def test_a_machine_that_reports_free_pages_is_known_by_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reported: bool
) -> None:
    if text is not None:
        (tmp_path / "order").write_text(text)
    monkeypatch.setattr(memory, "REPORTED", tmp_path / "order")
    free_pages_are_reported.cache_clear()
    assert free_pages_are_reported() is reported
    free_pages_are_reported.cache_clear()


@pytest.mark.parametrize("reported", [True, False])
def test_huge_pages_are_used_if_they_are_cheap(monkeypatch: pytest.MonkeyPatch, reported: bool) -> None:
    advice: list[int] = []

    class Mapping:
        def __init__(self, *_: object, **__: object):
            self.madvise = advice.append

    monkeypatch.setattr(memory, "free_pages_are_reported", lambda: reported)
    monkeypatch.setattr(mmap, "mmap", Mapping)
    allocate(MAPPED)
    assert advice == ([] if reported else [mmap.MADV_HUGEPAGE])
