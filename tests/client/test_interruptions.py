"""If a server or a client is killed during a transfer, only time is lost."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weightwell
from weightwell import async_client
from weightwell.files import disk
from weightwell.files.part import Part
from weightwell.transfers import transfer as transfers
from weightwell_engine.generators.philox.cpu.checked import warm_up

if TYPE_CHECKING:
    from tests.client.conftest import Server

PATIENCE = 60.0
SHAPE = (8192, 1024)  # of float32: 32 MiB
SMALL = (300, 700)


class Process:
    """A server in a separate process, always at the same address."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        self.starts += 1
        command = [sys.executable, "-m", "weightwell_service", "--port", str(self.port), "--torch-generator", "off"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        assert any("Uvicorn running" in line for line in self._process.stderr), "the server has ended"

    def kill(self) -> None:
        """Take it away without a warning."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    warm_up()  # so that the process finds its kernels compiled: that takes longer than anybody waits for it here
    process = Process()
    yield process
    process.kill()


@pytest.mark.parametrize("connections", [1, 3])
def test_a_server_that_is_killed_and_started_again_gives_the_right_file(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    monkeypatch.setattr(transfers, "WIDE", 1)
    lock, writes, write, starts = threading.Lock(), [0], disk.write_at, process.starts

    def write_and_kill(*args: Any) -> int:
        with lock:
            writes[0] += 1
            if writes[0] == 9:
                process.kill()
        return write(*args)

    def start(_seconds: float, _until: threading.Event) -> None:
        with lock:
            if process.starts == starts:
                process.start()

    monkeypatch.setattr(disk, "write_at", write_and_kill)
    with weightwell.Client(process.url, connections=connections) as client:
        monkeypatch.setattr(client._door, "sleep", start)
        client.save(tmp_path / "broken", SHAPE, "normal", seed=7)
        monkeypatch.setattr(disk, "write_at", write)
        client.save(tmp_path / "whole", SHAPE, "normal", seed=7)
    assert process.starts == starts + 1
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


# A client that is killed in the call of a function, before or after the function has done its work.
KILLED = """
import os, signal, sys
from pathlib import Path
from weightwell import Client
from weightwell.files import disk, part, record
from weightwell.transfers import destinations

def kill(place, name, call, after):
    function, calls = getattr(place, name), []
    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(place, name, killed)

url, path, place, name, call, after = sys.argv[1:]
destinations.BLOCK = 5000
places = {"disk": disk, "Path": Path, "Record": record.Record, "os": os}
kill(places[place], name, int(call), after == "after")
Client(url).save(path, (300, 700), "ones")
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        ("disk", "allocate", 1),
        ("disk", "write_at", 1),
        ("disk", "write_at", 50),
        ("Record", "begin", 1),
        ("Record", "add", 50),
        ("os", "fsync", 1),
        ("Path", "unlink", 1),
        ("Path", "replace", 1),
    ],
)
def test_a_client_that_is_killed_anywhere_goes_on_with_the_right_file(
    fake: "Server", tmp_path: Path, place: str, name: str, call: int, when: str
) -> None:
    path = tmp_path / "weight"
    command = [sys.executable, "-c", KILLED, fake.url, str(path), place, name, str(call), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    asked = len(fake.requests)
    with weightwell.Client(fake.url) as client:
        client.save(path, (300, 700), "ones")
    assert path.read_bytes() == fake.file_of(fake.requests[0].fields)
    assert list(tmp_path.iterdir()) == [path]
    if call == 50:
        position = int(fake.requests[asked + 1].headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert position > 200_000


@pytest.mark.parametrize("place", ["opened", "write_at", "commit"])
def test_nothing_is_written_after_a_cancellation_by_asyncio(
    fake: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owner: Any = {"opened": async_client, "write_at": disk, "commit": Part}[place]
    function, begun, cancelled, busy = getattr(owner, place), threading.Event(), threading.Event(), [0]
    close = Part.close
    closed: list[int] = []  # how many were busy when the part was closed

    def slow(*args: Any) -> Any:
        busy[0] += 1
        begun.set()
        assert cancelled.wait(PATIENCE)
        result = function(*args)
        busy[0] -= 1
        return result

    def note(part: Part) -> None:
        closed.append(busy[0])
        close(part)

    async def cancel() -> None:
        async with weightwell.AsyncClient(fake.url) as client:
            saving = asyncio.create_task(client.save(tmp_path / "weight", SMALL, "ones"))
            await asyncio.to_thread(begun.wait, PATIENCE)
            saving.cancel()
            asyncio.get_running_loop().call_later(0.05, cancelled.set)
            with pytest.raises(asyncio.CancelledError):
                await saving
        assert closed == busy == [0]

    monkeypatch.setattr(owner, place, slow)
    monkeypatch.setattr(Part, "close", note)
    asyncio.run(cancel())
    monkeypatch.undo()
    with weightwell.Client(fake.url) as client:  # which finds nobody's lock
        client.save(tmp_path / "weight", SMALL, "ones")
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]


def test_what_a_killed_client_held_is_free_again(fake: "Server", tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, fake.url, str(tmp_path / "weight"), "disk", "write_at", "9", "before"]
    subprocess.run(command, check=False)
    assert (tmp_path / "weight.part").exists()
    with weightwell.Client(fake.url) as client:
        client.save(tmp_path / "weight", (3,), "ones")
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]
