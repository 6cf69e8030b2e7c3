"""Readers that stall, are many, or ask for much: the memory of the service, and how long other requests wait.

Each function attacks a running service and returns what it measured, and whether the goal for two cores is met.
"""

import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Protocol

MIB = 2**20
GIB_OF_NORMALS = "/init?shape=16384,16384&scheme=normal"
LIVE = "/health/live"

Measured = tuple[str, bool]


class Service(Protocol):
    """A running service."""

    port: int

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection and send something."""

    def get(self, target: str = ...) -> float:
        """Return the seconds of one request, a small one if none is named, on a new connection."""

    def memory(self) -> int:
        """Return the resident memory in bytes."""

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has taken."""


def request(target: str, *headers: str) -> bytes:
    """Return the bytes of a request."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: soak", *headers, "", ""]).encode()


def latency(get: Callable[[], float], seconds: float) -> tuple[float, float]:
    """Ask again and again for some seconds; return median and 99th percentile in milliseconds."""
    until, times = time.monotonic() + seconds, []
    while time.monotonic() < until:
        times.append(1000 * get())
        time.sleep(0.01)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def settle(service: Service) -> None:
    """Wait until the service has filled the buffers of all readers, and rests."""
    time.sleep(1)
    used, until = -1.0, time.monotonic() + 120
    while service.cpu() - used > 0.1 and time.monotonic() < until:
        used = service.cpu()
        time.sleep(1)


# Stalled readers -----------------------------------------------------------------------------------------------------


def stalled(service: Service) -> Measured:
    """Let 1,000 readers of 1 GiB stop reading, keep 2,000 idle connections, and send small requests meanwhile."""
    before = service.memory()
    with ExitStack() as stack:
        for _ in range(2000):
            idle = stack.enter_context(service.connect(request(LIVE)))
            idle.recv(2**16)
        for _ in range(1000):
            stack.enter_context(service.connect(request(GIB_OF_NORMALS)))
        settle(service)
        gained = service.memory() - before
        median, worst = latency(service.get, 10)
    return (
        f"+{gained / MIB:.0f} MiB; small request p50 {median:.0f} ms, p99 {worst:.0f} ms",
        gained < 1024 * MIB and worst < 50,
    )


def waves(service: Service) -> Measured:
    """Let five waves of 200 readers stall and leave, and measure the memory that stays."""
    before, most = service.memory(), 0
    for _ in range(5):
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(service.connect(request(GIB_OF_NORMALS)))
            settle(service)
            most = max(most, service.memory() - before)
        time.sleep(2)
    stays = service.memory() - before
    return f"+{most / MIB:.0f} MiB at most, +{stays / MIB:.0f} MiB afterwards", stays < 128 * MIB


# Readers that read ---------------------------------------------------------------------------------------------------


def read(port: int, count: int, rate: float) -> None:
    """Read ``count`` files of 1 GiB, each at ``rate`` bytes a second at most, until a signal; runs in a process."""
    selector, memory = selectors.DefaultSelector(), bytearray(2**18)
    total, closed, begin = 0, 0, time.monotonic()
    signal.signal(
        signal.SIGTERM,
        lambda *_: sys.exit(print(total, closed, min(taken.values(), default=0), max(taken.values(), default=0))),
    )
    taken: dict[socket.socket, int] = {}

    def connect() -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request(GIB_OF_NORMALS))
        connection.setblocking(False)
        taken[connection] = 0
        selector.register(connection, selectors.EVENT_READ)

    for _ in range(count):
        connect()
    while True:
        now = time.monotonic() - begin
        ready = [key.fileobj for key, _ in selector.select(0.1)]
        for connection in ready:
            if not isinstance(connection, socket.socket) or taken[connection] > now * rate:
                continue
            try:
                received = connection.recv_into(memory)
            except ConnectionResetError:
                received = 0  # a response that is broken off, too
            taken[connection] += received
            total += received
            if not received:
                closed += 1
                selector.unregister(connection)
                connect()
        if all(each > now * rate for each in taken.values()):
            time.sleep(0.01)


@contextmanager
def readers(service: Service, count: int, rate: float = float("inf")) -> Iterator[list[int]]:
    """Read in another process; the list has, at the end, four numbers.

    They are the bytes that were read, the broken responses, and the bytes of the slowest and of the fastest reader.
    """
    program = f"from benchmarks.soak_drawing import read; read({service.port}, {count}, float('{rate}'))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    time.sleep(3)
    found: list[int] = []
    try:
        yield found
    finally:
        process.terminate()
        found += map(int, process.communicate()[0].split())


def busy(service: Service, count: int, goal: float) -> Measured:
    """Let readers read as fast as they can, and send small requests at the same time."""
    begin = time.monotonic()
    with readers(service, count) as found:
        median, worst = latency(service.get, 10)
        _, live = latency(lambda: service.get(LIVE), 3)
    speed = found[0] / (time.monotonic() - begin) / 1e9
    ratio = found[3] / max(found[2], 1)
    return (
        f"small request p50 {median:.0f} ms, p99 {worst:.0f} ms; {LIVE} p99 {live:.0f} ms; {speed:.2f} GB/s in all; "
        f"the fastest reader {ratio:.1f} times the slowest",
        worst < goal and ratio < 3,
    )


def busy_64(service: Service) -> Measured:
    """Send small requests while 64 readers read."""
    return busy(service, 64, 100)


def busy_256(service: Service) -> Measured:
    """Send small requests while 256 readers read."""
    return busy(service, 256, 100)


def honest(service: Service, count: int) -> Measured:
    """Let readers take 1 MB/s each; measure the memory, and count the responses that are broken off."""
    before, most = service.memory(), 0
    with readers(service, count, 1e6) as found:
        for _ in range(50):
            time.sleep(0.2)
            most = max(most, service.memory() - before)
    return f"+{most / MIB:.0f} MiB, {found[1]} responses broken off", most < 1024 * MIB and found[1] == 0


def honest_250(service: Service) -> Measured:
    """Let 250 readers take 1 MB/s each."""
    return honest(service, 250)


def honest_1000(service: Service) -> Measured:
    """Let 1,000 readers take 1 MB/s each."""
    return honest(service, 1000)


# Requests that cost much ---------------------------------------------------------------------------------------------


def short_runs(service: Service) -> Measured:
    """Download four slices of single elements, and request files of 1 MiB at the same time."""
    slices = request("/init?shape=3000000,3,41,101&slice=:,0:2,0:1,0:1&scheme=normal")
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(service.connect(slices))
        time.sleep(0.5)
        median, worst = latency(lambda: service.get("/init?shape=512,512&scheme=normal"), 10)
    return f"file of 1 MiB p50 {median:.0f} ms, p99 {worst:.0f} ms", worst < 100


def ends_of_torch(service: Service) -> Measured:
    """Request the last byte of a large torch file twice, and files of 1 MiB at the same time."""
    last = request("/init?shape=4294967000&scheme=normal&generator=torch", "Range: bytes=-1")
    with service.connect(last), service.connect(last):
        time.sleep(0.5)
        median, worst = latency(lambda: service.get("/init?shape=512,512&scheme=normal"), 10)
        torch = service.get("/init?shape=512,512&scheme=normal&generator=torch")
    return f"file of 1 MiB p50 {median:.0f} ms, p99 {worst:.0f} ms; of torch {1000 * torch:.0f} ms", worst < 100


def abandoned(service: Service) -> Measured:
    """Ask torch for minutes of rejections, leave, and see when its thread is free."""
    target = "/init?shape=1200000&scheme=trunc_normal&a=9&b=19&generator=torch"
    with service.connect(request(target)), service.connect(request(target)):
        time.sleep(2)
    free = service.get("/init?shape=4,4&scheme=orthogonal&generator=torch")
    return f"{free:.2f} s", free < 1


def matrices(service: Service) -> Measured:
    """Ask for 16 orthogonal matrices at once, of which three fit the memory."""

    def ask(seed: int) -> bool:
        with service.connect(request(f"/init?shape=4096,4096&scheme=orthogonal&seed={seed}")) as connection:
            connection.settimeout(300)
            return connection.recv(12) == b"HTTP/1.1 200"

    begin = time.perf_counter()
    with ThreadPoolExecutor(16) as clients:
        served = sum(clients.map(ask, range(16)))
    return f"{served} of 16 served in {time.perf_counter() - begin:.0f} s", served == 16


def slow_reader_of_a_matrix(service: Service) -> Measured:
    """Let one reader take a sparse file at 50 kB/s, whose drawing takes most of the memory, and ask for a matrix."""
    sparse = request("/init?shape=100000000,4&scheme=sparse&sparsity=0.5")
    with service.connect(sparse) as slow:
        while len(slow.recv(50_000)) == 0:
            pass
        seconds = service.get("/init?shape=2048,2048&scheme=orthogonal")
    return f"{seconds:.1f} s", seconds < 30


def rest(service: Service) -> Measured:
    """Send small requests to an idle service: the baseline for a machine that has other work."""
    median, worst = latency(service.get, 5)
    return f"small request p50 {median:.0f} ms, p99 {worst:.0f} ms", True
