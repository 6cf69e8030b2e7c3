"""Small requests to the service, compared with a bare Starlette route.

    python -m benchmarks.requests

Both servers are uvicorn with the same event loop and access log. The bare route has uvicorn's own protocol, without
deadlines and limits. Each server has a separate process. The client keeps eight connections busy and measures one
server after the other in each round. The table has the medians over the rounds, and the least CPU time of the server
for a request, which depends less on other work of the machine. Reads /proc, so it needs Linux.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.http import free_port
from benchmarks.measure import table

CONNECTIONS = 8

BARE = """
import sys
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
import uvicorn
from weightwell_service.server import logging_config
body = bytes(1400)
async def answer(request):
    return Response(body, media_type="application/octet-stream")
uvicorn.run(Starlette(routes=[Route("/{path:path}", answer)]), port=int(sys.argv[1]), http="httptools", ws="none",
            log_config=logging_config())
"""

QUERIES: dict[str, Callable[[int], str]] = {
    "/init, the same 16 x 16 normal": lambda _: "/init?shape=16,16&scheme=normal&seed=7",
    "/init, another seed each time": lambda n: f"/init?shape=16,16&scheme=normal&seed={n}",
    "/gain": lambda _: "/gain?nonlinearity=leaky_relu&param=0.2",
    "/health/live": lambda _: "/health/live",
}


class Reader(asyncio.Protocol):
    """One connection: sends the next request when an answer is complete, and records the seconds of each request."""

    def __init__(self, targets: Iterator[str], until: float):
        self._targets = targets
        self._until = until
        self._received = bytearray()
        self.seconds: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        """Send the next request if the answer is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        self.seconds.append(time.perf_counter() - self._began)
        self._received.clear()
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(f"GET {next(self._targets)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())


async def read(port: int, targets: Iterator[str], seconds: float) -> tuple[float, float]:
    """Return the requests per second and the 99th percentile of their time in milliseconds."""
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    readers = [
        (await loop.create_connection(lambda: Reader(targets, until), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(reader.done for reader in readers))
    times = sorted(second for reader in readers for second in reader.seconds)
    return len(times) / seconds, 1000 * times[len(times) * 99 // 100]


def cpu(process: int) -> float:
    """Return the seconds of CPU that a process has taken."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measured(process: int, port: int, targets: Iterator[str], seconds: float) -> tuple[float, float, float]:
    """Return the requests per second, the 99th percentile of their time in ms, and the CPU time of one in us."""
    before = cpu(process)
    rate, late = asyncio.run(read(port, targets, seconds))
    return rate, late, 1e6 * (cpu(process) - before) / (rate * seconds)


@contextmanager
def serving(*arguments: str, port: int) -> Iterator[int]:
    """Run a server until the end of the context; yield the ID of its process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of one round for one server")
    options = parser.parse_args()
    bare, ours = free_port(), free_port()
    numbers = iter(range(10**9))
    with (
        serving("-c", BARE, str(bare), port=bare) as bare_process,
        serving("-m", "weightwell_service", "--port", str(ours), port=ours) as our_process,
    ):
        rows: list[tuple[str, ...]] = []
        for title, target in QUERIES.items():
            targets = map(target, numbers)
            rounds = []
            for _ in range(options.rounds):
                base, _, base_cpu = measured(bare_process, bare, targets, options.seconds)
                rate, late, our_cpu = measured(our_process, ours, targets, options.seconds)
                rounds.append((rate, base, rate / base, late, our_cpu, base_cpu))
            columns = list(zip(*rounds, strict=True))
            rate, base, ratio, late = map(statistics.median, columns[:4])
            ours_least, least = map(min, columns[4:])
            figures = f"{rate:.0f}", f"{base:.0f}", f"{ratio:.2f}", f"{late:.1f}", f"{ours_least:.0f}", f"{least:.0f}"
            rows.append((title, *figures, f"{least / ours_least:.2f}"))
        titles = ("request", "a second", "bare route", "ratio", "p99, ms", "CPU, us", "bare route", "ratio")
        table("Small requests", titles, rows)


if __name__ == "__main__":
    main()
