"""Usage of several processes: a limit holds for all of them, and those that die leave nothing open."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from weightwell_service.access import shared_usage
from weightwell_service.access.clients import Client
from weightwell_service.access.shared_usage import SharedUsage
from weightwell_service.access.usage import Exceeded

TOKEN = Client("token", "bound", max_responses=3, bytes_per_day=1000)
FREE = Client("token", "free")
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


def test_clients_share_files_and_not_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_usage, "_FILES", 2)
    first, second = SharedUsage(tmp_path, lambda: 0.0), SharedUsage(tmp_path, lambda: 0.0)
    clients = [Client("address", f"10.0.0.{number}") for number in range(20)]
    for number, client in enumerate(clients):
        first.begin(client)
        first.take(client, number)
    assert [second.of(client).nbytes for client in clients] == list(range(20))
    assert [second.of(client).responses for client in clients] == [1] * 20  # of the same process
    assert len(list(tmp_path.iterdir())) == 2


def test_of_too_many_clients_one_without_an_answer_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_usage, "_FILES", 1)
    monkeypatch.setattr(shared_usage, "MOST_CLIENTS", 3)
    usage = SharedUsage(tmp_path, lambda: 0.0)
    clients = [Client("address", str(number)) for number in range(5)]
    usage.begin(clients[0])
    for client in clients[1:]:
        usage.take(client, 7)
    usage.take(clients[0], 7)
    assert usage.of(clients[0]).responses == 1
    assert usage.of(clients[4]).nbytes == 7
    assert (tmp_path / "0").stat().st_size == 4 * 40


def test_the_answers_of_a_process_that_has_died_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_usage, "_FILES", 1)
    monkeypatch.setattr(shared_usage, "MOST_CLIENTS", 3)
    usage = SharedUsage(tmp_path, lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # more than the largest number of a process
        patch.setattr(shared_usage, "is_alive", lambda _: True)
        for number in range(3):
            usage.begin(Client("address", str(number)))
    for number in range(10, 20):
        usage.take(Client("address", str(number)), 7)
    assert (tmp_path / "0").stat().st_size == 3 * 40


def test_a_row_that_is_cut_off_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_usage, "_FILES", 1)
    usage = SharedUsage(tmp_path, lambda: 0.0)
    usage.take(TOKEN, 10)
    usage.take(FREE, 10)
    os.truncate(tmp_path / "0", 50)
    assert [usage.of(each).nbytes for each in (TOKEN, FREE)] == [10, 0]
