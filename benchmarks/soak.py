"""What clients that misbehave cost, and bad servers: every line attacks a fresh service, and is met or missed.

    python -m benchmarks.soak            # all lines
    python -m benchmarks.soak trailers   # those with this word in their name

Prints a table: what the attack cost version 0.1.0, the goal, and what it costs now. Uses loopback only, takes minutes,
and ends with status 1 if a goal is missed. Deadlines are set to a few seconds, so that lines need not wait for the
defaults. To add a line, write a function that takes a ``Service`` and returns what it measured, and add it to
``LINES``.
"""

import argparse
import os
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import soak_access as access
from benchmarks import soak_drawing as drawing
from benchmarks import soak_faults as faults
from benchmarks import soak_restarts as restarts
from benchmarks import soak_specs as specs
from benchmarks.http import free_port, running
from benchmarks.measure import table

MIB = 2**20
HEAD_SECONDS, STALL_SECONDS = 3, 5
READER_SECONDS = 30  # longer than the bursts in which the kernel acknowledges what a slow reader takes

SMALL = "/init?shape=16,16&scheme=normal"
CHUNKED = b"POST /plan HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Service:
    """A running service."""

    port: int
    pid: int
    log: Path
    token: str = ""

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection and send something."""
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        if data:
            connection.sendall(data)
        return connection

    def get(self, target: str = SMALL) -> float:
        """Return the seconds of one small request on a new connection."""
        begin = time.perf_counter()
        token = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        head = f"GET {target} HTTP/1.1\r\nHost: soak\r\n{token}Connection: close\r\n\r\n"
        with self.connect(head.encode()) as connection:
            received = b"".join(iter(lambda: connection.recv(2**16), b""))
        if not received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{target} gave {received[:80]!r}")
        return time.perf_counter() - begin

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has taken."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


Measured = tuple[str, bool]


@dataclass(frozen=True)
class Line:
    """One attack. ``measure`` returns what it cost, and whether the goal is met."""

    name: str
    before: str
    goal: str
    measure: Callable[[Service], Measured]
    settings: Mapping[str, object] = field(default_factory=dict)
    files: int | None = None  # the limit of open files of the service
    tokens: bool = False  # whether the service has the tokens of soak_access


@contextmanager
def serving(line: Line) -> Iterator[Service]:
    """Run a service for a line until the context ends."""
    port = free_port()
    settings = {"PORT": port, "HEAD_TIMEOUT": HEAD_SECONDS, "STALL_TIMEOUT": STALL_SECONDS, **line.settings}
    command = [sys.executable, "-m", "weightwell_service"]
    if line.files:
        command = ["sh", "-c", f'ulimit -n {line.files}; exec "$@"', "sh", *command]
    with tempfile.TemporaryDirectory() as folder:
        if line.tokens:
            settings["TOKENS_FILE"] = access.tokens_file(Path(folder))
        environment = os.environ | {f"WEIGHTWELL_{name}": str(value) for name, value in settings.items()}
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            service = Service(port, process.pid, log, access.RIGHT if line.tokens else "")
            wait(lambda: process.poll() is not None or answers(service), 180)
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            yield service
        finally:
            process.terminate() if line.settings.get("WORKERS") else process.kill()  # which ends the workers too
            process.wait()


def answers(service: Service) -> bool:
    """Return whether the service is ready, with torch imported, and answers a small request."""
    try:
        service.get("/health/ready")
        service.get()
    except OSError:
        return False
    return True


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """Return the seconds until a condition holds, at most so many."""
    begin = time.perf_counter()
    while not condition() and time.perf_counter() - begin < seconds:
        time.sleep(0.02)
    return time.perf_counter() - begin


def is_open(connection: socket.socket) -> bool:
    """Return whether the server has not closed a connection. Drops what it has sent."""
    with suppress(BlockingIOError):
        try:
            while data := connection.recv(2**16, socket.MSG_DONTWAIT):
                del data
        except ConnectionError:
            return False
        return False
    return True


def drip(connections: list[socket.socket], data: bytes, seconds: float) -> int:
    """Send a byte on every connection each second; return how many are open at the end."""
    for n in range(int(seconds)):
        for connection in connections:
            with suppress(OSError):
                connection.send(data[n % len(data) :][:1], socket.MSG_DONTWAIT)
        time.sleep(1)
    return sum(is_open(each) for each in connections)


# Trailers ------------------------------------------------------------------------------------------------------------


def trailers(service: Service) -> Measured:
    """Send trailers until they are refused, or 300 MB."""
    before, sent, part = service.memory(), 0, b"a: b\r\n" * 10_000
    with service.connect(CHUNKED + b"2\r\n{}\r\n0\r\n") as connection, suppress(OSError):
        while sent < 300e6 and not select.select([connection], [], [], 0)[0]:
            sent += connection.send(part)
    gained = service.memory() - before
    return f"{gained / MIB:.0f} MiB for {sent / 1e6:.1f} MB sent", gained < 50 * MIB


def endless_trailer(service: Service) -> Measured:
    """Send one trailer value for a few seconds, and small requests meanwhile."""
    connection = service.connect(CHUNKED + b"2\r\n{}\r\n0\r\na: ")
    connection.setblocking(False)
    longest, until = 0.0, time.monotonic() + 5
    while time.monotonic() < until:
        with suppress(OSError):
            for _ in range(50):
                connection.send(b"b" * 2**18)
        longest = max(longest, service.get("/health/live"))
    return f"{longest * 1e3:.0f} ms", longest < 0.5


# Deadlines -----------------------------------------------------------------------------------------------------------


def slow_heads(service: Service) -> Measured:
    """Open connections that send a byte of a head each second."""
    left = drip([service.connect(b"GET / HTTP/1.1\r\na: ") for _ in range(1000)], b"b", HEAD_SECONDS + 3)
    return f"{left} of 1,000 open", left == 0


def silent(service: Service) -> Measured:
    """Open connections that send nothing."""
    connections = [service.connect() for _ in range(500)]
    time.sleep(HEAD_SECONDS + 3)
    left = sum(is_open(each) for each in connections)
    return f"{left} of 500 open", left == 0


def slow_bodies(service: Service) -> Measured:
    """Open connections that send a byte of a body each second."""
    head = b"POST /plan HTTP/1.1\r\nHost: soak\r\nContent-Length: 1000000\r\n\r\n"
    left = drip([service.connect(head) for _ in range(500)], b" ", STALL_SECONDS + 3)
    return f"{left} of 500 open", left == 0


def large_bodies(service: Service) -> Measured:
    """Send 500 bodies of 16 MiB less a byte."""
    before, most = service.memory(), 0
    head, body = b"POST /plan HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n" % (16 * MIB), b" " * (16 * MIB - 1)
    kept = []
    for _ in range(500):
        connection = service.connect()
        connection.settimeout(2)
        with suppress(OSError):
            connection.sendall(head + body)
        kept.append(connection)
        most = max(most, service.memory() - before)
    return f"{most / MIB:.0f} MiB", most < 1024 * MIB


def descriptors(service: Service) -> Measured:
    """Hold more silent connections than there are descriptors, and send requests at the same time."""
    connections = [service.connect() for _ in range(1100)]
    served = 0
    for _ in range(20):
        connections = [each if is_open(each) else service.connect() for each in connections]
        served += answers(service)
    time.sleep(1.5)
    logged = "are the limit (WEIGHTWELL_MAX_CONNECTIONS)" in service.log.read_text()
    return f"{served} of 20 requests served, {'logged' if logged else 'not logged'}", served == 20 and logged


def too_large(service: Service) -> Measured:
    """Announce a body that is too large, and expect to be asked for it."""
    head = b"POST /plan HTTP/1.1\r\nHost: soak\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
    with service.connect(head) as connection:
        status = connection.recv(2**16).split()[1].decode()
    return f"the first answer is {status}", status == "413"


def readers(service: Service) -> Measured:
    """Read one response at 20 kB/s, with buffers as the system has them, and another one not at all."""
    request = b"GET /init?shape=16384,16384&scheme=normal HTTP/1.1\r\nHost: soak\r\n\r\n"
    slow, stalled = service.connect(request), service.connect(request)
    kept = False
    with suppress(ConnectionError):
        for _ in range(2 * READER_SECONDS + 5):
            slow.recv(20_000)
            time.sleep(1)
        kept = bool(slow.recv(1))
    logged = service.log.read_text().count("closed a stalled connection")
    reset = stalled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    return (
        f"20 kB/s {'kept' if kept else 'closed'}, 0 B/s {'closed' if reset else 'kept'}",
        kept and reset and logged == 1,
    )


# The log -------------------------------------------------------------------------------------------------------------


def forged(service: Service) -> Measured:
    """Send another address in X-Forwarded-For through nginx, as docs/deployment.md sets it up."""
    page = (Path(__file__).parents[1] / "docs/deployment.md").read_text()
    (block,) = re.findall(r"^```nginx\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    port = free_port()
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").replace(
        "listen 80", f"listen 127.0.0.1:{port}"
    )
    root = service.log.parent
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = " ".join(f"{name}_temp_path {root};" for name in names)
    http = f"http {{ access_log off; {folders} {block} }}"
    config = root / "nginx.conf"
    config.write_text(f"daemon off; pid {root}/pid; error_log {root}/error.log; events {{}} {http}")
    request = b"GET /init?shape=3&scheme=forged HTTP/1.1\r\nHost: soak\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    nginx = running(["nginx", "-p", str(root), "-c", str(config)], port)
    with nginx, socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        connection.recv(2**16)
    (line,) = [line for line in service.log.read_text().splitlines() if "forged" in line]
    return f"the log has {line.split()[2]}", "203.0.113.9" not in line


# Leaving -------------------------------------------------------------------------------------------------------------


def uploads(service: Service) -> Measured:
    """Abandon 500 uploads."""
    before = service.log.stat().st_size
    for _ in range(500):
        service.connect(b"POST /plan HTTP/1.1\r\nHost: soak\r\nContent-Length: 99\r\n\r\n{").close()
    time.sleep(1)
    written = service.log.stat().st_size - before
    return f"{written / 1e3:.0f} kB", written < 100e3


def departure(service: Service) -> Measured:
    """Ask for a large matrix and for more, leave, and see when the CPU rests."""
    more = f"GET {SMALL} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()
    service.connect(b"GET /init?shape=8192,8192&scheme=orthogonal HTTP/1.1\r\nHost: soak\r\n\r\n" + more * 3000).close()

    left, used, last = time.perf_counter(), -1.0, 0.0
    while service.cpu() > used and time.perf_counter() - left < 60:
        used, last = service.cpu(), time.perf_counter()
        time.sleep(0.3)
    return f"{last - left:.1f} s", last - left < 1


def half_closed(service: Service) -> Measured:
    """Close the sending side after the request for a matrix of a second."""
    with service.connect(b"GET /init?shape=3000,3000&scheme=orthogonal HTTP/1.1\r\nHost: soak\r\n\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(60)
        received = sum(len(part) for part in iter(lambda: connection.recv(2**20), b""))
    return f"{received / 1e6:.0f} MB", received > 36e6


# For readers that are slow and not stalled.
_SLOW = {"STALL_TIMEOUT": READER_SECONDS}

LINES = [
    Line("trailers for ever, memory", "4,100 MB for 300 MB sent", "+50 MiB", trailers),
    Line("an endless trailer, longest /health/live", "21 s", "500 ms", endless_trailer),
    Line("1,000 slow heads, after the deadline", "1,000 open", "0 open", slow_heads),
    Line("500 silent connections, after the deadline", "500 open", "0 open", silent),
    Line("500 bodies at 1 byte/s, after the deadline", "500 open", "0 open", slow_bodies),
    Line("500 bodies of 16 MiB less a byte, memory", "8,700 MB", "+1 GiB", large_bodies),
    Line("1,100 silent connections, 1,024 descriptors", "0 served, not logged", "20 served", descriptors, files=1024),
    Line("too large a Content-Length with Expect", "100", "413", too_large),
    Line("readers", "20 kB/s closed", "20 kB/s kept, 0 B/s closed", readers, _SLOW),
    Line("a forged X-Forwarded-For behind nginx, log", "203.0.113.9", "127.0.0.1", forged),
    Line("500 abandoned uploads, log", "2,300 kB", "100 kB", uploads),
    Line("a client that leaves, with requests behind", "the whole work", "1 s", departure),
    Line("a client that closes its sending side", "nothing", "36 MB", half_closed),
    Line("20 endless bodies, memory", "", "413, +256 MiB", faults.endless_bodies),
    Line("bad chunking", "", "4xx", faults.bad_chunking),
    Line("10,000 mutated requests", "", "no 5xx but 503, no hang, +64 MiB", faults.mutated),
    Line("poor surroundings", "", "served, or one line", faults.surroundings),
    Line("a worker killed every 3 s, files", "", "none lost", restarts.killed_workers, {"WORKERS": 2}),
    Line("workers restarted by SIGHUP, files", "", "none lost", restarts.restarted_workers, {"WORKERS": 2}),
    Line("a replica killed in turns behind HAProxy, files", "", "none lost", restarts.killed_replicas),
    Line("a rolling restart behind HAProxy, files", "", "none lost", restarts.restarted_replicas),
    Line("our client killed in mid-file, run again", "", "right", restarts.killed_client),
    Line(
        "1,000 stalled readers and 2,000 idle connections",
        "+9,900 MB",
        "+1 GiB, small requests p99 50 ms",
        drawing.stalled,
    ),
    Line("5 waves of 200 stalled readers, memory", "2,056 MB stay", "128 MiB stay", drawing.waves),
    Line("64 busy readers, small requests", "p50 252 ms", "p99 100 ms, fastest < 3 times slowest", drawing.busy_64),
    Line("256 busy readers, small requests", "p50 766 ms", "p99 100 ms, fastest < 3 times slowest", drawing.busy_256),
    Line("250 readers at 1 MB/s, memory", "container of 4 GiB dies", "+1 GiB", drawing.honest_250, _SLOW),
    Line("1,000 readers at 1 MB/s, memory", "container of 4 GiB dies", "+1 GiB", drawing.honest_1000, _SLOW),
    Line("slices of single elements, others", "p50 6,600 ms", "p99 100 ms", drawing.short_runs),
    Line("ends of two large torch files, others", "15 s", "p99 100 ms", drawing.ends_of_torch),
    Line("torch's sampler, after its clients left", "over 400 s", "1 s", drawing.abandoned),
    Line("16 matrices at once", "6 of 16 served", "16 served", drawing.matrices),
    Line("a matrix next to a slow reader of another", "hours", "30 s", drawing.slow_reader_of_a_matrix),
    Line("/plan of a manifest of 105,000 tensors", "37.7 s of CPU", "2.5 times /init", specs.plan),
    Line("a manifest behind three large ones", "76 s", "5 s", specs.behind_three),
    Line("a manifest behind five whose senders left", "144 s", "5 s", specs.behind_departed),
    Line("40 HEADs of manifest URLs, /health/ready", "16 s", "p99 500 ms", specs.heads),
    Line("55 kB of unknown parameters", "58 ms", "20 ms", specs.fields),
    Line(
        "the limits of a token, 8 processes", "-", "neither more nor less", access.shared, {"WORKERS": 8}, tokens=True
    ),
    Line("tokens among 1,000, medians", "-", "two wrong, two right ones within 5%", access.wrong, tokens=True),
    Line("our client and a torch file, CPU", "4 to 6 times a plain GET", "1.5 times", specs.torch_file),
    Line("our client and bad servers, memory", "2,700 MB, or a hang", "+64 MiB, 40 s", specs.bad_servers),
    Line("4 KiB of a .part overwritten, resumed", "saved as good", "found", specs.damaged_part),
]


def main() -> int:
    """Run the lines that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="run only the lines with this word in their name")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows, missed = [], 0
    for line in LINES:
        if options.word not in line.name:
            continue
        with ExitStack() as stack:
            measured, met = line.measure(stack.enter_context(serving(line)))
        missed += not met
        rows.append((line.name, line.before, line.goal, measured, "met" if met else "missed"))
        print(f"{rows[-1][0]}: {measured}, {rows[-1][-1]}", file=sys.stderr)
    table("Clients that misbehave", ("line", "0.1.0", "goal", "now", ""), rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
