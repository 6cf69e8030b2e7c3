"""The client without a server: addresses, processes, threads, and what stops a drawing."""

import asyncio
import copy
import io
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightwell
from tests.conftest import PATIENCE
from weightwell import Client, doors
from weightwell.__main__ import main
from weightwell.in_process import drawing
from weightwell.in_process.address import Address
from weightwell_engine.processors import cpus
from weightwell_engine.virtual_file import VirtualFile

pytestmark = pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")

LARGE = 1500, 1000  # several pieces for several threads


def drawn(client: Client, shape: tuple[int, ...] = (64, 64), **fields: Any) -> bytes:
    """The bytes of a tensor."""
    array: np.ndarray[Any, Any] = client.init(shape, "normal", framework="numpy", **fields)
    return array.tobytes()


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("local:", Address("cpu", cpus())),
        ("local:cpu", Address("cpu", cpus())),
        ("local:?threads=3", Address("cpu", 3)),
        ("local:cuda", Address("cuda", cpus())),
        ("local:cuda:12?threads=1", Address("cuda:12", 1)),
    ],
)
def test_an_address_has_a_device_and_threads(url: str, address: Address) -> None:
    assert Address.of(url) == address


@pytest.mark.parametrize(
    "url", ["local:gpu", "local:cpu?threads=0", "local:cpu:1", "local:?threads=x", "local:cuda:01"]
)
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected local:DEVICE\?threads=N, such as local:"):
        Client(url)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10_000])
def test_another_number_of_threads_is_refused(threads: Any) -> None:
    with pytest.raises(ValueError, match="threads must be an integer from 1 to 9999"):
        weightwell.local(threads=threads)


def test_a_device_that_is_not_there_is_said_when_it_is_used() -> None:
    with weightwell.local("cuda:77") as client, pytest.raises(weightwell.Busy, match="device cuda:77 does not exist"):
        client.init((3, 4), "normal")


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTWELL_URL", "local:cpu?threads=2")
    with Client() as client:
        assert repr(client) == "Client('local:cpu?threads=2')"
        assert client.gain("relu") == 2**0.5


def test_the_command_draws_without_a_server(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["--local", "init", "3,4", "normal", "--seed", "5"]) == 0
    file = io.BytesIO()
    with weightwell.local() as client:
        client.save(file, (3, 4), "normal", seed=5)
    assert capsysbinary.readouterr().out == file.getvalue()
    path = tmp_path / "w.safetensors"
    path.write_bytes(file.getvalue())
    assert main(["verify", "--local", str(path)]) == 0


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "find_spec", lambda name: None if name in {"numba", "re2"} else name)
    for make in (weightwell.local, lambda: Client("local:"), lambda: weightwell.AsyncClient("local:")):
        with pytest.raises(weightwell.MissingFramework, match=r"needs numba, re2, .*pip install 'weightwell\[local\]'"):
            make()


def test_options_of_a_server_are_allowed_so_that_a_script_moves_without_an_edit() -> None:
    with Client(
        "local:", timeout=3, headers={"X-Team": "vision"}, auth=("ada", "secret"), wait=1, connections=2
    ) as client:
        assert len(drawn(client)) == 64 * 64 * 4


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with weightwell.local() as client:
        client.save(tmp_path / "w", LARGE, "normal")
        assert client.verify(tmp_path / "w").same


def test_a_small_tensor_imports_neither_torch_nor_numba_nor_http() -> None:
    heavy = {"torch", "numba", "httpx", "httpcore", "fastapi", "starlette", "uvicorn", "threadpoolctl"}
    program = (
        "import sys, weightwell\n"
        "weightwell.local().init((64, 64), 'kaiming_normal', framework='numpy')\n"
        f"sys.exit(', '.join({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


# Processes -----------------------------------------------------------------------------------------------------------


def test_a_copy_draws_the_same() -> None:
    with weightwell.local(threads=2) as client:
        expected = drawn(client, LARGE)
        for each in (copy.deepcopy(client), pickle.loads(pickle.dumps(client))):  # noqa: S301 - our own bytes
            with each:
                assert repr(each) == repr(client)
                assert drawn(each, LARGE) == expected


def in_a_child(client: Client, queue: Any) -> None:
    queue.put(drawn(client, LARGE))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_inherits_a_client_draws_the_same(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with weightwell.local(threads=2) as client:
        expected = drawn(client, LARGE)  # so that there are threads, which a fork does not copy
        queue = context.Queue()
        children = [context.Process(target=in_a_child, args=(client, queue)) for _ in range(2)]
        for child in children:
            child.start()
        assert [queue.get(timeout=PATIENCE) for _ in children] == [expected] * 2
        for child in children:
            child.join(PATIENCE)
            assert child.exitcode == 0
        assert drawn(client, LARGE) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_locks_of_its_parent() -> None:
    with weightwell.local(threads=2) as client:
        expected = drawn(client, LARGE)
        door: Any = client._door
        door.engines._lock.acquire()
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            with suppress(BaseException):
                os.write(writer, b"1" if drawn(client, LARGE) == expected else b"0")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == b"1"
        os.waitpid(child, 0)
        door.engines._lock.release()


# Errors and interruptions --------------------------------------------------------------------------------------------


class Full:
    """A binary file on a disk that is full after some bytes."""

    def __init__(self, size: int):
        self.left = size

    def write(self, data: memoryview) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass


def test_an_error_of_the_destination_ends_the_drawing() -> None:
    with weightwell.local(threads=2) as client, pytest.raises(OSError, match="No space left"):
        client.save(Full(2**20), LARGE, "normal")  # type: ignore[arg-type]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens before each piece that is drawn; the next is popped from this list."""
    ahead: list[Callable[[], object]] = []
    fill = VirtualFile.fill

    def fill_after(file: VirtualFile, *args: Any) -> None:
        with suppress(IndexError):
            ahead.pop()()
        fill(file, *args)

    monkeypatch.setattr(VirtualFile, "fill", fill_after)
    return ahead


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_is_raised_once_and_no_thread_draws_on(
    calls: list[Callable[[], object]], threads: int
) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with weightwell.local(threads=threads) as client:
        calls.append(fail)
        with pytest.raises(RuntimeError, match="broken"):
            drawn(client, LARGE)
        assert drawn(client, LARGE) == drawn(client, LARGE)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_the_drawing(calls: list[Callable[[], object]], threads: int, tmp_path: Path) -> None:
    with weightwell.local(threads=threads) as client:
        before = threading.active_count()
        calls.append(lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            client.save(tmp_path / "w", LARGE, "normal")
        assert list(tmp_path.iterdir()) == []
        assert threading.active_count() <= before + threads - 1  # none hangs: the next call needs them
        client.save(tmp_path / "w", LARGE, "normal")
        assert client.verify(tmp_path / "w").same


def test_a_deadline_ends_the_drawing() -> None:
    with Client("local:", deadline=0.0) as client, pytest.raises(weightwell.TimedOut, match="deadline="):
        drawn(client)


def test_a_cancelled_task_stops_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, going_on, after = threading.Event(), threading.Event(), []
    fill = VirtualFile.fill

    def fill_slowly(file: VirtualFile, *args: Any) -> None:
        reached.set()
        assert going_on.wait(PATIENCE)
        after.append(1)
        fill(file, *args)

    monkeypatch.setattr(VirtualFile, "fill", fill_slowly)
    monkeypatch.setattr(drawing, "SMALLEST_CHUNK", 2**16)

    async def cancel() -> None:
        async with weightwell.AsyncClient("local:cpu?threads=2") as client:
            task = asyncio.create_task(client.init(LARGE, "normal"))
            await asyncio.to_thread(reached.wait, PATIENCE)
            task.cancel()
            asyncio.get_running_loop().call_later(0, going_on.set)
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert len(after) <= 2  # the pieces under way


@pytest.mark.parametrize("nbytes", [2**18, 2**20, 2**22, 5 * 2**20, 2**23 - 1, 2**26, 2**30])
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_get_shares_that_differ_by_an_eighth_or_a_mebibyte(nbytes: int, threads: int) -> None:
    chunk = drawing.chunk_of(nbytes, threads)
    chunks = -(-nbytes // chunk)
    assert chunk % drawing.PAGE == 0
    assert chunks >= min(threads, nbytes // drawing.SHARE)
    largest = -(-chunks // threads) * chunk
    assert largest - nbytes / threads <= max(nbytes / threads / 8 + drawing.PAGE, drawing.SMALLEST_CHUNK)


def test_asynchronous_calls_run_at_once() -> None:
    async def draw() -> list[Any]:
        async with weightwell.AsyncClient("local:cpu?threads=2") as client:
            tasks = [client.init((50, 60), "normal", seed=seed, framework="numpy") for seed in range(20)]
            return list(await asyncio.gather(*tasks))

    with weightwell.local() as client:
        assert [each.tobytes() for each in asyncio.run(draw())] == [
            drawn(client, (50, 60), seed=seed) for seed in range(20)
        ]


def test_a_bar_counts_every_byte(capsys: pytest.CaptureFixture[str]) -> None:
    with weightwell.local(threads=2, progress=True) as client:
        drawn(client, LARGE)
    assert "100%" in capsys.readouterr().err


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["philox", "torch"])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_open_file_is_the_file_that_save_writes(generator: str, threads: int) -> None:
    saved = io.BytesIO()
    with weightwell.local(threads=threads) as client:
        client.save(saved, (1100, 1000), "normal", generator=generator)
        with client.open((1100, 1000), "normal", generator=generator) as file:
            assert file.read() == saved.getvalue()
            assert file.seek(-7, io.SEEK_END) == len(saved.getvalue()) - 7
            assert file.read() == saved.getvalue()[-7:]
            file.seek(3)
            assert file.read(100) == saved.getvalue()[3:103]
            assert file.name == f"local:cpu?threads={threads}"


def test_a_manifest_of_any_length_can_be_opened() -> None:
    tensors = {f"layer.{number}.weight": {"shape": [3, number], "scheme": "normal"} for number in range(2000)}
    saved = io.BytesIO()
    with weightwell.local(threads=2) as client:
        client.save(saved, {"tensors": tensors})
        assert client.open({"tensors": tensors}).read() == saved.getvalue()


def test_an_open_file_of_a_wrong_spec_is_refused_at_once() -> None:
    with weightwell.local() as client, pytest.raises(weightwell.InvalidRequest, match="std must be"):
        client.open((3, 4), "normal", std=-1)
