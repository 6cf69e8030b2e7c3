"""Long bodies are read from the socket, after any bytes that came with the head; all other bodies go through httpx."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from weightwell.transfers import wire

if TYPE_CHECKING:
    from tests.client.conftest import Server

Connect = Callable[..., Any]

ELEMENTS = (wire.LONG >> 2) + 1001  # of float32: a little more than a long body


@pytest.fixture
def past_httpx(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One item for every piece that is read past httpx."""
    pieces: list[str] = []

    def spied(function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: Any) -> Any:
            pieces.append(function.__name__)
            return function(*args)

        return spy

    monkeypatch.setattr(wire.Body, "_recv_into", spied(wire.Body._recv_into))
    monkeypatch.setattr(wire.AsyncBody, "_read", spied(wire.AsyncBody._read))
    return pieces


@pytest.mark.parametrize("together", [True, False])
def test_a_long_body_is_read_past_httpx_and_whole(
    fake: "Server", connect: Connect, past_httpx: list[str], together: bool
) -> None:
    fake.together = together
    tensor = connect(fake.url).init(ELEMENTS, "ones", framework="numpy")
    assert tensor.tobytes() == fake.pattern(4 * ELEMENTS)
    assert past_httpx


def test_a_long_body_that_breaks_goes_on_past_httpx(fake: "Server", connect: Connect, past_httpx: list[str]) -> None:
    fake.faults.append(fake.cut(150_000))
    tensor = connect(fake.url).init(ELEMENTS, "ones", framework="numpy")
    assert tensor.tobytes() == fake.pattern(4 * ELEMENTS)
    assert fake.requests[1].headers["range"] == "bytes=150000-"
    assert past_httpx


def test_a_short_body_leaves_the_connection_for_the_next(
    fake: "Server", connect: Connect, past_httpx: list[str]
) -> None:
    client = connect(fake.url)
    for _ in range(3):
        client.init(100_000, "ones")
    assert (len(fake.requests), fake.connections, past_httpx) == (3, 1, [])


def test_the_client_goes_on_after_a_long_body(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    client.init(ELEMENTS, "ones")
    assert np.asarray(client.init(3, "ones")).tobytes() == fake.pattern(12)


class Stream:
    """A network stream of httpcore, as far as it is asked about itself."""

    def __init__(self, **info: object):
        self.get_extra_info = info.get


@pytest.mark.parametrize(
    ("extensions", "headers"),
    [
        ({}, {}),
        ({"network_stream": Stream(), "http_version": b"HTTP/2"}, {}),
        ({"network_stream": Stream(), "http_version": b"HTTP/1.0"}, {}),
        ({"network_stream": Stream(ssl_object=object()), "http_version": b"HTTP/1.1"}, {}),
        ({"network_stream": Stream(), "http_version": b"HTTP/1.1"}, {"Transfer-Encoding": "chunked"}),
    ],
)
def test_what_is_not_plain_is_left_to_httpx(extensions: dict[str, Any], headers: dict[str, str]) -> None:
    response = httpx.Response(200, headers=headers, extensions=extensions)
    assert wire._plain_stream(response) is None
    assert wire._socket(response) is None


def test_a_socket_of_an_unknown_kind_is_left_to_httpx() -> None:
    stream = Stream(socket=object())
    response = httpx.Response(200, extensions={"network_stream": stream, "http_version": b"HTTP/1.1"})
    assert wire._plain_stream(response) is stream
    assert wire._socket(response) is None
