"""A traceback ends in the called method: it has no further frames of this package."""

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import weightwell
from weightwell import Client

if TYPE_CHECKING:
    from tests.client.conftest import Server

LONGEST = 12  # lines


def caught(method: Callable[..., object], *args: Any, **options: Any) -> Exception:
    """The exception of a call."""
    try:
        method(*args, **options)
    except Exception as error:  # whatever it is
        return error
    raise AssertionError("nothing was raised")


def caught_in_a_task(url: str, method: str, *args: Any, **options: Any) -> Exception:
    """The exception of a method of the asynchronous client, as the coroutine that awaits it sees it."""

    async def ask() -> Exception:
        async with weightwell.AsyncClient(url) as client:
            door: Any = client._door
            door.sleep = _at_once
            try:
                await getattr(client, method)(*args, **options)
            except Exception as error:  # whatever it is
                return error
            raise AssertionError("nothing was raised")

    return asyncio.run(ask())


async def _at_once(_seconds: float) -> None:
    """Sleep for no time."""


def lines(error: Exception) -> list[str]:
    """The traceback, as Python prints it."""
    return "".join(traceback.format_exception(error)).splitlines()


@pytest.fixture
def nobody() -> str:
    """An address without a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("gain", ("rellu",), {}),
    ("gains", (), {"source": "quadratur"}),
    ("init", ((3, 4), "kaiming_norml"), {}),
    ("init", ((3, 4), "normal"), {"std": -1}),
    ("init", ((3, 4.5), "normal"), {}),
    ("init", ((3, 4), "normal"), {"dtype": "bfloat"}),
    ("init", ((3, 4), "normal"), {"slice": "0:2:2"}),
    ("init", ((3, 4), "normal"), {"framework": "jax"}),
    ("init", (), {}),
    ("plan", ((3, 4),), {}),
    ("plan", ({"tensors": {"w": {"shape": [3]}}},), {}),
    ("init_state_dict", ({"tensors": {"w": {"shape": "x"}}},), {}),
    ("init_module_", (torch.nn.Linear(3, 4), "xavier_uniform"), {}),
    ("init_module_", (torch.nn.Linear(3, 4), [{"match": "x", "scheme": "ones"}]), {}),
    ("save", (weightwell.Manifest({}), "x"), {}),
]


@pytest.mark.parametrize(("method", "args", "options"), CALLS, ids=lambda value: str(value)[:40])
def test_a_refusal_ends_in_the_method_that_was_called(
    door: str, method: str, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with Client(door) as client:
        error = caught(getattr(client, method), *args, **options)
    assert len(lines(error)) <= LONGEST, "\n".join(lines(error))
    assert error.__suppress_context__
    assert traceback.extract_tb(error.__traceback__)[0].filename == __file__
    other = caught_in_a_task(door, method, *args, **options)
    assert len(lines(other)) <= LONGEST, "\n".join(lines(other))
    assert type(other) is type(error)


def test_a_refused_connection_ends_in_the_method_and_says_why(nobody: str) -> None:
    with Client(nobody) as client:
        door: Any = client._door
        door.sleep = lambda *_: None
        error = caught(client.init, (3, 4), "ones")
    for each in (error, caught_in_a_task(nobody, "init", (3, 4), "ones")):
        assert isinstance(each, weightwell.ConnectionFailed)
        assert len(lines(each)) <= LONGEST, "\n".join(lines(each))
        assert nobody in str(each)
        assert "refused" in str(each) or "attempts failed" in str(each)
        assert each.__context__ is not None


def test_a_file_that_cannot_be_verified_ends_in_the_method_and_says_why(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0" * 9)
    with Client(door) as client:
        error = caught(client.verify, tmp_path / "file")
    assert len(lines(error)) <= LONGEST
    assert "file cannot be verified: " in str(error)


def test_an_error_of_the_callers_function_keeps_every_frame(door: str) -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.empty(3, device="meta"))

    def broken(_module: torch.nn.Module) -> None:
        raise ValueError("mine")

    with Client(door) as client:
        error = caught(client.init_module_, Table(), device="cpu", reset_buffers=broken)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "broken"
    assert "filling_of" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_the_log_has_the_whole_traceback(fake: "Server", caplog: pytest.LogCaptureFixture) -> None:
    fake.faults.append(fake.refuse(422, detail="no"))
    with Client(fake.url) as client, caplog.at_level(logging.DEBUG, logger="weightwell"):
        caught(client.gain, "relu")
    [record] = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert record.exc_info is not None
    assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])][-1] in caplog.text
