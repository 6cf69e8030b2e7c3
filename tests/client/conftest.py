"""A fake Weightwell server with answers from a table of bytes; a test can make it misbehave."""

import asyncio
import base64
import hashlib
import json
import signal
import socket
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

import weightwell
from weightwell.dtypes import DTYPES
from weightwell.schemes import DEFAULTS, SCHEMES

PERIOD = bytes(range(251))  # a prime: bytes that end up at a wrong offset, or twice, do not look right


def pattern(size: int) -> bytes:
    """The data of every tensor of this server, for any request."""
    return (PERIOD * (size // len(PERIOD) + 1))[:size]


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it; ``fields`` are those of the query or of the JSON body, as text."""

    method: str
    path: str
    fields: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """A response. ``sent`` bytes of the body reach the client, all by default; then the connection breaks."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    silent: bool = False  # breaks the connection instead of answering
    stalls: bool = False  # keeps the connection and says nothing more
    resets: bool = False  # breaks the connection with an error, where others just end it

    def with_headers(self, **headers: str) -> "Answer":
        """The same response with other header fields; underscores stand for hyphens."""
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


Fault = Callable[[Asked, Answer], Answer]


def file_of(fields: Mapping[str, Any], *, padding: int = 0) -> bytes:
    """The safetensors file that the fields of a request for ``/init`` describe."""
    shape = fields["shape"]
    sizes = [int(n) for n in (shape.split(",") if isinstance(shape, str) else shape) if n != ""]
    bounds = [[*map(int, part.split(":"))] for part in fields.get("slice", "").split(",") if part]
    extent = [stop - start for start, stop in bounds] or sizes
    dtype = DTYPES[fields["dtype"]]
    size = prod(extent) * dtype.itemsize
    name = fields.get("name", "weight")
    part = {} if extent == sizes else {"slice": fields["slice"]}
    tensor = {**_recipe(fields), "shape": sizes, "dtype": dtype.name, "seed": int(fields.get("seed", 0)), **part}
    spec = {"generator": fields.get("generator", "philox"), "tensors": {name: tensor}}
    header = json.dumps(
        {
            "__metadata__": {"format": "pt", "spec": json.dumps(spec)},
            name: {"dtype": dtype.code, "shape": extent, "data_offsets": [0, size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8 + padding)
    return len(header).to_bytes(8, "little") + header + pattern(size)


def etag_of(file: bytes) -> str:
    """The entity tag of a file, as Weightwell makes it."""
    end = 8 + int.from_bytes(file[:8], "little")
    return f'"{hashlib.sha256(file[:end]).hexdigest()[:32]}"'


def _recipe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The scheme and its parameters, with defaults and numbers."""
    scheme = SCHEMES.get(fields["scheme"], fields["scheme"])
    others = {"shape", "scheme", "seed", "dtype", "name", "generator", "slice"}
    said = {key: _number(value) for key, value in fields.items() if key not in others}
    parameters = {**DEFAULTS.get(scheme, {}), **said}
    return {"scheme": scheme, **{key: value for key, value in parameters.items() if value is not None}}


def _number(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


class Faults:
    """What can go wrong."""

    @staticmethod
    def cut(sent: int) -> Fault:
        """The connection breaks after this many bytes of the body."""
        return lambda _, answer: replace(answer, sent=sent)

    @staticmethod
    def reset(sent: int) -> Fault:
        """The connection breaks with an error after at most this many bytes of the body."""
        return lambda _, answer: replace(answer, sent=sent, resets=True)

    @staticmethod
    def stall(sent: int) -> Fault:
        """Nothing more comes after this many bytes of the body."""
        return lambda _, answer: replace(answer, sent=sent, stalls=True)

    @staticmethod
    def silence(_asked: Asked, answer: Answer) -> Answer:
        """The connection breaks before an answer comes."""
        return replace(answer, silent=True)

    @staticmethod
    def refuse(status: int, *, retry_after: str = "", **members: Any) -> Fault:
        """The server refuses, with these members of a problem."""
        return lambda *_: problem(status, **members).with_headers(Retry_After=retry_after)

    @staticmethod
    def change(**headers: str) -> Fault:
        """The answer has other header fields, none where the text is empty."""
        return lambda _, answer: answer.with_headers(**headers)

    @staticmethod
    def answer(status: int, body: bytes, **headers: str) -> Fault:
        """Another answer altogether."""
        return lambda *_: Answer(status, body).with_headers(**headers)

    @staticmethod
    def without_ranges(asked: Asked, _answer: Answer) -> Answer:
        """The server knows no ranges."""
        return whole(file_of(asked.fields))

    @staticmethod
    def other_file(asked: Asked, _answer: Answer) -> Answer:
        """The server has been replaced by one that draws another file."""
        return ranged(asked, whole(file_of(asked.fields, padding=8)))


class Server(Faults):
    """One thread for every connection. ``faults`` are taken one a request, in order; None stands for none.

    ``requests`` holds what was asked, and ``connections`` counts how often somebody connected. Where ``together``, the
    head and the body of an answer leave in one piece.
    """

    together = False
    pattern = staticmethod(pattern)
    file_of = staticmethod(file_of)
    etag_of = staticmethod(etag_of)

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.faults: deque[Fault | None] = deque()
        self.connections = 0
        self._resources = ExitStack()
        self._listener = self._resources.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []
        self._stopping = False
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The server's address."""
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def close(self) -> None:
        """Stop, and leave no thread and no socket behind."""
        self._stopping = True
        socket.create_connection(self._listener.getsockname()).close()
        self._threads[0].join()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._resources.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopping:
                return connection.close()
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            while (asked := _read(stream)) is not None:
                self.requests.append(asked)
                answer = _answer(asked)
                fault = self.faults.popleft() if self.faults else None
                answer = fault(asked, answer) if fault else answer
                if not _send(connection, answer, together=self.together):
                    return
                if answer.stalls:
                    stream.read()  # until the client leaves


def _read(stream: Any) -> Asked | None:
    line = stream.readline().decode()
    if not line:
        return None
    method, target, _ = line.split()
    headers = {}
    while (line := stream.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    fields = json.loads(body) if body else dict(parse_qsl(parts.query, keep_blank_values=True))
    return Asked(method, parts.path, _fields_of_manifest(fields), headers)


def _fields_of_manifest(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the one tensor of a manifest in a URL, such as that of a file that is verified."""
    if "manifest" not in fields:
        return fields
    text = fields["manifest"]
    manifest = json.loads(zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    ((name, tensor),) = manifest["tensors"].items()
    return {"dtype": manifest.get("dtype"), "name": name, "generator": manifest["generator"], **tensor}


def _answer(asked: Asked) -> Answer:
    """What Weightwell would answer."""
    if asked.path.endswith("/gain"):
        gain = {
            "nonlinearity": asked.fields.get("nonlinearity"),
            "param": _number(asked.fields.get("param", 0)),
            "gain": 1.5,
        }
        table = {"gains": {"relu": {"gain": 1.5}}}
        return _json({"source": "torch", **(gain if "nonlinearity" in asked.fields else table)})
    if asked.path.endswith("/schemes"):
        parameters = [{"name": "mode", "default": "fan_in"}, {"name": "val"}]
        return _json({"schemes": [{"name": "ones", "summary": "Fill with ones.", "parameters": parameters}]})
    if asked.path.endswith("/presets"):
        own: list[dict[str, Any]] = [{"name": "layers"}, {"name": "std", "default": 0.02}]
        return _json({"presets": [{"name": "gpt2", "summary": "As nanoGPT does.", "parameters": own}]})
    if not asked.path.endswith("/init"):
        return problem(404, title="Not Found")
    return ranged(asked, whole(file_of(asked.fields)))


def whole(file: bytes) -> Answer:
    """The answer that is all of a file."""
    return Answer(200, file, {"ETag": etag_of(file), "Accept-Ranges": "bytes", "Weightwell-Range-Cost": "proportional"})


def ranged(asked: Asked, answer: Answer) -> Answer:
    """The part of a file that a request wants."""
    wanted = asked.headers.get("range", "").removeprefix("bytes=")
    if not wanted or asked.method != "GET" or asked.headers.get("if-range") not in {None, answer.headers["ETag"]}:
        return answer
    size = len(answer.body)
    first, _, last = wanted.partition("-")
    start, stop = int(first), int(last) + 1 if last else size
    part = replace(answer, status=206, body=answer.body[start:stop])
    return part.with_headers(Content_Range=f"bytes {start}-{stop - 1}/{size}")


def _json(document: object) -> Answer:
    return Answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


def problem(status: int, **members: Any) -> Answer:
    """A refusal."""
    body = json.dumps({"status": status, **members}).encode()
    return Answer(status, body, {"Content-Type": "application/problem+json"})


def _send(connection: socket.socket, answer: Answer, *, together: bool) -> bool:
    """Send an answer; say whether the connection can go on."""
    if answer.silent:
        return False
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    head = f"HTTP/1.1 {answer.status} Reason\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items() if v)
    pieces = [head.encode() + b"\r\n", answer.body[: answer.sent]]
    for piece in [b"".join(pieces)] if together else pieces:
        connection.sendall(piece)
    if answer.resets:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return answer.sent is None or answer.stalls


# Fixtures ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Client:
    """Either client as a synchronous one that does not sleep: ``naps`` holds the seconds that it would have slept.

    Its clock shows nothing else, so that time passes in sleep alone.
    """

    def __init__(self, kind: str, url: str | None, **options: Any):
        self.naps: list[float] = []
        self._runner = asyncio.Runner()
        self._client: Any = (weightwell.Client if kind == "sync" else weightwell.AsyncClient)(url, **options)
        if not (url or "").startswith("local:"):
            door: Any = self._client._door
            door.sleep = (lambda seconds, _: self.naps.append(seconds)) if kind == "sync" else self._nap
            door.retry.clock = lambda: sum(self.naps)

    async def _nap(self, seconds: float) -> None:
        self.naps.append(seconds)

    def __getattr__(self, verb: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self._client, verb)(*args, **kwargs)
            return self._runner.run(answer) if asyncio.iscoroutine(answer) else answer

        return call

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._client, weightwell.Client):
            self._client.close()
        else:
            self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Make a client, of each kind in turn: ``connect(url, **options)``."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(Client(request.param, url, **options))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt here, as in a program: a process in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
