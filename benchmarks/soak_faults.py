"""Requests that are wrong, and machines that lack something: no internal error, no hang, no growth, a clear line.

Each function attacks a running service, or starts services in poor surroundings, and returns what it measured, and
whether the goal is met.
"""

import hashlib
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import weightwell
from benchmarks.http import free_port
from benchmarks.soak_drawing import MIB, request

Measured = tuple[str, bool]

MUTATED = 10_000
SMALL = "/init?shape=16,16&scheme=normal"

_BODY = b'{"tensors": {"a": {"shape": [4, 4], "scheme": "normal", "seed": 3}, "b": {"shape": [2], "scheme": "zeros"}}}'
_BASES = [
    request(SMALL, "Range: bytes=3-90", 'If-Range: "x"'),
    request("/init?shape=3,4&scheme=orthogonal&gain=2&dtype=bfloat16&slice=0:1"),
    request("/gain?nonlinearity=leaky_relu&param=0.2&source=quadrature"),
    request("/inspect?shape=8,8&scheme=normal"),
    request("/s3/acme/model.safetensors?list-type=2", "X-Amz-Date: 20261128T000000Z"),
    request("/weightwell/tiny-gpt2/resolve/main/model.safetensors", "Range: bytes=0-9"),
    b"POST /plan HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY),
    b"POST /init HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(_BODY), _BODY),
]
_TOKENS = [
    *(b"\0", b"\xff", b"%00", b"%ff%fe", b"\r\n", b"\n", b" ", b"-", b"-1", b"0", b"99999999999999999999", b"1e999"),
    *(
        b"nan",
        b"[[[[",
        b"}}",
        b'"',
        b"&",
        b"=",
        b"bytes=-",
        b"chunked",
        b"Content-Length: 5\r\n",
        b"HTTP/9.9",
        b"//..//",
    ),
]


class Service(Protocol):
    """A running service."""

    port: int
    log: Path

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection and send something."""

    def get(self, target: str = ...) -> float:
        """Return the seconds of one request, a small one if none is named, on a new connection."""

    def memory(self) -> int:
        """Return the resident memory in bytes."""


def mutations(count: int) -> Iterator[bytes]:
    """Yield requests with one to four faults each, always the same ones."""
    chance = random.Random(20261128)  # noqa: S311 - faults, not secrets
    for _ in range(count):
        data = bytearray(chance.choice(_BASES))
        for _ in range(chance.randint(1, 4)):
            place, fault = chance.randrange(len(data)), chance.randrange(5)
            if fault == 0:
                data[place] = chance.randrange(256)
            elif fault == 1:
                del data[place : place + chance.randint(1, 9)]
            elif fault == 2:
                data[place:place] = chance.choice(_TOKENS)
            elif fault == 3:
                data[place:place] = data[place : place + chance.randint(1, 40)]
            else:
                data[place : place + chance.randint(1, 6)] = chance.choice(_TOKENS)
            data = data or bytearray(b"\r\n")
        yield bytes(data)


def answer(service: Service, data: bytes) -> str:
    """Send bytes and close the sending side; return the status, "none" without an answer, or "hang"."""
    received = b""
    with service.connect() as connection:
        connection.settimeout(30)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                received = received or part
        except TimeoutError:
            return "hang"
        except OSError:
            pass  # refused before all was sent
    return received[9:12].decode("latin-1") if received.startswith(b"HTTP/1.") else "none"


def mutated(service: Service) -> Measured:
    """Send 10,000 requests with faults."""
    for data in mutations(500):
        answer(service, data)
    before, seen = service.memory(), Counter[str]()
    for data in mutations(MUTATED):
        seen[answer(service, data)] += 1
    gained = service.memory() - before
    wrong = sum(
        count
        for status, count in seen.items()
        if status == "hang" or (status[0] == "5" and status not in {"503", "505"})
    )
    internal = service.log.read_text().count("Traceback")
    service.get()
    shown = ", ".join(f"{status} {count}" for status, count in sorted(seen.items()))
    return f"{shown}; +{gained / MIB:.0f} MiB; {internal} tracebacks", not wrong and not internal and gained < 64 * MIB


def endless_bodies(service: Service) -> Measured:
    """Send 20 chunked bodies without an end until each is refused, or 1 GB in all."""
    before, most, sent, refused = service.memory(), 0, 0, 0
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    for _ in range(20):
        with service.connect(b"POST /plan HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
            mine = 0
            with suppress(OSError):
                while mine < 50e6 and not select.select([connection], [], [], 0)[0]:
                    mine += connection.send(chunk)
            connection.settimeout(10)
            with suppress(OSError):
                refused += connection.recv(12) == b"HTTP/1.1 413"
            sent, most = sent + mine, max(most, service.memory() - before)
    return (
        f"{refused} of 20 got 413 after {sent / 1e6:.0f} MB; +{most / MIB:.0f} MiB",
        refused == 20 and most < 256 * MIB,
    )


def bad_chunking(service: Service) -> Measured:
    """Send bodies whose chunks are wrong."""
    head = b"POST /plan HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n"
    bodies = [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b"ffffffffffffffffff\r\n{}",
        b"2;" + b"a" * 100_000,
    ]
    statuses = [answer(service, head + body) for body in bodies]
    both = b"POST /plan HTTP/1.1\r\nHost: soak\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    statuses.append(answer(service, both))
    return ", ".join(statuses), all(status[0] == "4" or status == "none" for status in statuses)


# Surroundings --------------------------------------------------------------------------------------------------------

# The name, the shell command before the service, and the variables that are set or, if None, removed.
_FULL = "mount -t tmpfs -o size=4k tmpfs /tmp && (cat /dev/zero > /tmp/full 2>&- || true)"
_IN_TMP: dict[str, str | None] = {"NUMBA_CACHE_DIR": "/tmp/numba"}  # noqa: S108 - as in the image
_POOR: list[tuple[str, str, dict[str, str | None]]] = [
    ("ulimit -n 64", "ulimit -n 64", {}),
    ("ulimit -n 16", "ulimit -n 16", {}),
    ("1 CPU", "taskset -cp 0 $$ >&-", {}),
    ("no HOME", "true", {"HOME": None, "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None}),
    ("a HOME that is no folder", "true", {"HOME": "/dev/null", "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None}),
    ("read-only", "mount -o remount,ro / && mount -t tmpfs -o ro tmpfs /tmp", _IN_TMP),
    ("a full disk", _FULL, _IN_TMP),
    ("a full disk, 2 processes", _FULL, {**_IN_TMP, "WEIGHTWELL_WORKERS": "2"}),
    ("a log on a full disk", "exec >/dev/full 2>/dev/full", {}),
]


@contextmanager
def _started(setup: str, changes: dict[str, str | None], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    command = ["sh", "-c", f'{setup}; exec "$@"', "sh", sys.executable, "-m", "weightwell_service", "--port", str(port)]
    if "mount" in setup:
        command = ["unshare", "--mount", *command]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def surroundings(_: Service) -> Measured:
    """Start services that lack something. Each must serve the right bytes, or end once with one line that says why."""
    with weightwell.local() as client, client.open((16, 16), "normal") as file:
        right = hashlib.sha256(file.read()).hexdigest()
    results, met = [], True
    for name, setup, changes in _POOR:
        if "mount" in setup and not shutil.which("unshare"):
            continue
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            log, port = Path(folder, "log"), free_port()
            with _started(setup, changes, port, log) as process:
                found = _first(process, port)
            lines = log.read_text().splitlines()
        good = found == right
        if found is None:
            good = process.returncode == 2 and len(lines) == 1
        good = good and not any("Traceback" in line for line in lines)
        met = met and good
        said = "serves" if found == right else f"ends with {process.returncode}: {lines[-1] if lines else 'no line'}"
        results.append(f"{name}: {said}{'' if good else ' (wrong)'}")
        print(f"  {results[-1]}", file=sys.stderr)
    return "; ".join(results), met


def _first(process: subprocess.Popen[bytes], port: int) -> str | None:
    """Return the SHA-256 of a small file when the service answers; None if it ends."""
    until = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(request(SMALL, "Connection: close"))
            received = b"".join(iter(lambda: connection.recv(2**16), b""))
            return hashlib.sha256(received.partition(b"\r\n\r\n")[2]).hexdigest()
        time.sleep(0.2)
    return None
