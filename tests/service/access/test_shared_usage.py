"""Usage of several processes: a limit holds for all of them, and those that die leave nothing open."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from weightwell_service.access.shared_usage import SharedUsage
from weightwell_service.access.tokens import Token
from weightwell_service.access.usage import Exceeded

TOKEN = Token(name="bound", sha256="0" * 64, max_responses=3, bytes_per_day=1000)
FREE = Token(name="free", sha256="1" * 64)
PROCESSES = 4
spawn = multiprocessing.get_context("spawn")


def hold(folder: Path, told: Connection) -> None:
    """Begin one answer, and wait."""
    usage = SharedUsage(folder, lambda: 0.0)
    usage.begin(TOKEN)
    usage.take(TOKEN, 100)
    told.send("begun")
    told.recv()
    usage.end(TOKEN)
    told.send("ended")
    told.recv()


def count(folder: Path, times: int) -> None:
    """Begin and end answers, and take bytes."""
    usage = SharedUsage(folder, lambda: 0.0)
    for _ in range(times):
        usage.begin(FREE)
        usage.take(FREE, 3)
        usage.end(FREE)


def test_open_answers_are_those_of_all_processes_that_live(tmp_path: Path) -> None:
    usage = SharedUsage(tmp_path, lambda: 0.0)
    ends, processes = [], []
    for _ in range(2):
        end, other = spawn.Pipe()
        process = spawn.Process(target=hold, args=(tmp_path, other))
        process.start()
        assert end.poll(60)
        assert end.recv() == "begun"
        ends.append(end)
        processes.append(process)
    try:
        usage.begin(TOKEN)
        with pytest.raises(Exceeded, match="has 3 answers under way"):
            usage.begin(TOKEN)
        used = usage.of(TOKEN)
        assert (used.responses, used.others, used.nbytes) == (1, 2, 200)
        ends[0].send("end")
        assert ends[0].recv() == "ended"
        usage.begin(TOKEN)
        os.kill(processes[1].pid or 0, signal.SIGKILL)
        processes[1].join(30)
        usage.begin(TOKEN)
        assert usage.of(TOKEN).others == 0
    finally:
        for process in processes:
            process.kill()
            process.join(30)


def test_no_byte_is_lost_between_processes(tmp_path: Path) -> None:
    processes = [spawn.Process(target=count, args=(tmp_path, 500)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    used = SharedUsage(tmp_path, lambda: 0.0).of(FREE)
    assert (used.responses, used.others, used.nbytes) == (0, 0, PROCESSES * 500 * 3)


def test_a_day_begins_for_all_processes(tmp_path: Path) -> None:
    now = 0.0
    first, second = SharedUsage(tmp_path, lambda: now), SharedUsage(tmp_path, lambda: now)
    first.take(TOKEN, 1000)
    with pytest.raises(Exceeded):
        second.take(TOKEN, 1)
    now = 86400.0
    second.take(TOKEN, 1000)
    with pytest.raises(Exceeded):
        first.take(TOKEN, 1)
