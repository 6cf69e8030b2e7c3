"""Memory for tensors: as much as was asked for, aligned, and one's own."""

import subprocess
import sys

import numpy as np
import pytest

from weightwell.memory import MAPPED, allocate


@pytest.mark.parametrize("size", [8, MAPPED - 8, MAPPED, MAPPED + 8])
def test_memory_is_writable_and_aligned(size: int) -> None:
    array = np.frombuffer(allocate(size), np.uint8)
    assert (array.size, array.flags.writeable) == (size, True)
    assert array.ctypes.data % 8 == 0


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=str(1 << 60)):
        allocate(1 << 60)


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
