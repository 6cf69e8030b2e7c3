"""Several connections receive the same file as one connection; an error stops all of them."""

import asyncio
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weightwell
from tests.conftest import PATIENCE
from weightwell.transfers import destinations, wire
from weightwell.transfers import transfer as transfers

if TYPE_CHECKING:
    from tests.client.conftest import Answer, Asked, Server

Connect = Callable[..., Any]

SHAPE = (300, 700)
SIZE = 840_000


@pytest.fixture(params=["short", "long"], autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is worth several connections, through httpx and past it."""
    monkeypatch.setattr(destinations, "BLOCK", 5000)
    monkeypatch.setattr(transfers, "WIDE", 1)
    if request.param == "long":
        monkeypatch.setattr(wire, "LONG", 1)


def bits(tensor: Any) -> bytes:
    return bytes(np.asarray(tensor).tobytes())


def ranges(fake: "Server") -> set[str]:
    return {asked.headers["range"] for asked in fake.requests if "range" in asked.headers}


def test_ranges_from_several_connections_are_the_tensor(fake: "Server", connect: Connect) -> None:
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert len(ranges(fake)) == len(fake.requests) - 1 == 3
    assert {asked.headers.get("if-range") for asked in fake.requests[1:]} == {
        fake.etag_of(fake.file_of(fake.requests[0].fields))
    }


def test_ranges_from_several_connections_are_the_file(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    connect(fake.url).save(tmp_path / "weight", SHAPE, "ones")
    assert (tmp_path / "weight").read_bytes() == fake.file_of(fake.requests[0].fields)
    assert len(ranges(fake)) == len(fake.requests) - 1 == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]


def test_one_connection_is_one_if_that_is_wanted(fake: "Server", connect: Connect) -> None:
    assert bits(connect(fake.url, connections=1).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert len(fake.requests) == 1


def test_connections_that_break_go_on_where_they_broke(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(30_000), fake.cut(9000), fake.reset(20_000), fake.silence, fake.cut(0)] * 2)
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)


def test_a_file_that_becomes_another_starts_over(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    fake.faults.extend([None, fake.other_file])
    connect(fake.url).save(tmp_path / "weight", SHAPE, "ones")
    assert (tmp_path / "weight").read_bytes() in {
        fake.file_of(fake.requests[0].fields),
        fake.file_of(fake.requests[0].fields, padding=8),
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]


def test_servers_of_different_versions_are_found_out(fake: "Server", connect: Connect) -> None:
    def other(asked: "Asked", answer: "Answer") -> "Answer":
        return fake.other_file(asked, answer) if "range" in asked.headers else replace(answer, sent=30_000)

    fake.faults.extend([other] * 100)
    with pytest.raises((weightwell.FileChanged, weightwell.TruncatedBody)):
        connect(fake.url, wait=2).init(SHAPE, "ones")


def test_an_error_of_the_disk_ends_all_and_is_raised(
    fake: "Server", connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(_: int, data: memoryview, position: int) -> int:
        written.append(position)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr("weightwell.files.disk.write_at", write)
    with pytest.raises(OSError, match="the file takes"):
        connect(fake.url).save(tmp_path / "weight", SHAPE, "ones")
    assert not (tmp_path / "weight").exists()
    for thread in threading.enumerate():
        if "_run_in_thread" in thread.name:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_all_and_keeps_the_part(fake: "Server", tmp_path: Path) -> None:
    fake.faults.extend([fake.stall(30_000 + 5000 * n) for n in range(20)])
    main = threading.get_ident()

    def interrupt() -> None:
        while len(fake.requests) < 3:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with weightwell.Client(fake.url) as client, pytest.raises(KeyboardInterrupt):
        client.save(tmp_path / "weight", SHAPE, "ones")
    interrupter.join()
    assert not (tmp_path / "weight").exists()
    assert (tmp_path / "weight.part").exists()
    fake.faults.clear()
    with weightwell.Client(fake.url) as client:
        client.save(tmp_path / "weight", SHAPE, "ones")
    assert (tmp_path / "weight").read_bytes() == fake.file_of(fake.requests[0].fields)


def test_a_cancelled_task_leaves_nothing_behind(fake: "Server", tmp_path: Path) -> None:
    fake.faults.extend([fake.stall(30_000)] * 20)

    async def cancelled() -> None:
        async with weightwell.AsyncClient(fake.url) as client:
            task = asyncio.create_task(client.save(tmp_path / "weight", SHAPE, "ones"))
            while len(fake.requests) < 3:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(cancelled())
    assert not (tmp_path / "weight").exists()


def test_the_bar_counts_all_connections(fake: "Server", connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    connect(fake.url, progress=True).init(SHAPE, "ones")
    assert "ones [300, 700] float32: 100%" in capsys.readouterr().err
