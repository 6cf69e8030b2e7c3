"""Long specs, and clients of ours: how long others wait, and what a client spends on a hard server.

Each function attacks a running service, or is a client that is attacked, and returns what it measured, and whether the
goal for two cores is met.
"""

import gzip
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

from benchmarks.soak_drawing import LIVE, MIB, Measured, Service, latency, request
from weightwell_service.links import pack


def manifest(count: int, first: int = 0) -> bytes:
    """Return a manifest of ``count`` tensors."""
    fields = {"scheme": "kaiming_normal", "nonlinearity": "leaky_relu", "mode": "fan_out"}
    tensors = {
        f"model.layers.{n // 12}.{n % 12}.weight": {"shape": [n % 12 + 1, n % 5 + 1], "seed": n, **fields}
        for n in range(first, first + count)
    }
    return json.dumps({"tensors": tensors}).encode()


def post(path: str, body: bytes) -> bytes:
    """Return the bytes of a request with a body."""
    return b"POST %s HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body


def status(service: Service, sent: bytes) -> str:
    """Return the status of a request."""
    with service.connect(sent) as connection:
        connection.settimeout(300)
        return connection.recv(12)[9:].decode()


# Long specs ----------------------------------------------------------------------------------------------------------


def plan(service: Service) -> Measured:
    """Post a manifest of 110,000 tensors to ``/plan`` and to ``/init``, and compare the CPU."""
    body, taken = manifest(105_000), []
    for path in ("/init", "/plan"):
        before = service.cpu()
        if (got := status(service, post(path, body))) != "200":
            raise RuntimeError(f"{path} gave {got}")
        taken.append(service.cpu() - before)
    return f"{taken[1]:.1f} s of CPU, /init {taken[0]:.1f} s", taken[1] < 2.5 * taken[0]


def behind(service: Service, count: int, *, leave: bool) -> Measured:
    """Post a manifest of 83 kB behind large ones, whose senders may have left."""
    with ExitStack() as stack:
        for n in range(count):
            connection = service.connect(post("/plan", manifest(100_000, n)))
            if leave:
                connection.close()
            else:
                stack.enter_context(connection)
        time.sleep(0.5)
        begin = time.perf_counter()
        got = status(service, post("/plan", manifest(600)))
        seconds = time.perf_counter() - begin
    return f"{got} after {seconds:.1f} s", got == "200" and seconds < 5


def behind_three(service: Service) -> Measured:
    """Post a manifest behind three large ones."""
    return behind(service, 3, leave=False)


def behind_departed(service: Service) -> Measured:
    """Post a manifest behind five large ones whose senders left."""
    return behind(service, 5, leave=True)


def heads(service: Service) -> Measured:
    """Send 40 HEADs with manifests of 30 kB in their URLs, and ask for the health meanwhile."""
    names = {f"{n * 2654435761 % 2**64:x}": {"shape": [n + 1], "scheme": "ones"} for n in range(2500)}
    with ThreadPoolExecutor(40) as clients:
        asked = []
        for seed in range(40):
            packed = pack(json.dumps({"seed": seed, "tensors": names}))
            head = request(f"/init?manifest={packed}").replace(b"GET", b"HEAD", 1)
            asked.append(clients.submit(status, service, head))
        _, worst = latency(lambda: service.get("/health/ready"), 3)
        served = sum(each.result() == "200" for each in asked)
    return f"{served} of 40 answered, /health/ready p99 {worst:.0f} ms", served == 40 and worst < 500


def fields(service: Service) -> Measured:
    """Send 55 kB of unknown parameters again and again, and ask for the health meanwhile."""
    unknown = request("/init?" + "&".join(f"a{n}=1" for n in range(7000)))
    times = []
    for _ in range(100):
        begin = time.perf_counter()
        if (got := status(service, unknown)) != "422":
            raise RuntimeError(f"unknown parameters gave {got}")
        times.append(1000 * (time.perf_counter() - begin))
    _, live = latency(lambda: service.get(LIVE), 1)
    middle = sorted(times)[50]
    return f"p50 {middle:.0f} ms; {LIVE} p99 {live:.0f} ms", middle < 20


# Our client ----------------------------------------------------------------------------------------------------------

_CLIENT = """
import resource, sys, time, weightwell
try:
    with weightwell.Client(sys.argv[1], deadline=20) as client:
        client.save(sys.argv[2], int(sys.argv[3]), "normal", generator=sys.argv[4])
    print("saved", file=sys.stderr)
except weightwell.WeightwellError as error:
    print(type(error).__name__, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def client(url: str, path: Path, size: int = 1000, generator: str = "philox") -> tuple[str, int]:
    """Save a tensor with our client, in a process; return how it ended, and the most memory in bytes."""
    arguments = [sys.executable, "-c", _CLIENT, url, str(path), str(size), generator]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=True)
    return done.stderr.split()[-1], int(done.stdout) * 1024


def torch_file(service: Service) -> Measured:
    """Save a file of torch's generator with our client, and compare the server's CPU with that of one plain GET."""
    size, url = 50_000_000, f"http://127.0.0.1:{service.port}"
    service.get(f"/init?shape={size}&scheme=normal&generator=torch")
    before = service.cpu()
    service.get(f"/init?shape={size}&scheme=normal&generator=torch")
    plain, before = service.cpu() - before, service.cpu()
    with tempfile.TemporaryDirectory() as folder:
        client(url, Path(folder) / "file", size, "torch")
    saved = service.cpu() - before
    return f"{saved:.1f} s, a plain GET {plain:.1f} s", saved < 1.5 * plain


@contextmanager
def bad_server(sent: bytes, endless: bytes) -> Iterator[str]:
    """Answer every connection with some bytes, and with more of them for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(2**16)
            connection.sendall(sent)
            while endless:
                connection.sendall(endless)

    def accept() -> None:
        with suppress(OSError):
            while True:
                Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def bad_servers(service: Service) -> Measured:
    """Save from servers that send an endless error, a bomb of gzip, and endless interim responses."""
    bomb = gzip.compress(bytes(2**30))
    compressed = b"HTTP/1.1 404 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    attacks = {
        "error": (b"HTTP/1.1 404 No\r\nContent-Length: 99999999999\r\n\r\n", bytes(2**16)),
        "bomb": (compressed + bomb, b""),
        "1xx": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    }
    found, met = [], True
    with tempfile.TemporaryDirectory() as folder:
        _, usual = client(f"http://127.0.0.1:{service.port}", Path(folder) / "usual")
        for name, (sent, endless) in attacks.items():
            begin = time.perf_counter()
            with bad_server(sent, endless) as url:
                how, most = client(url, Path(folder) / "file")
            seconds = time.perf_counter() - begin
            found.append(f"{name} +{max(most - usual, 0) / MIB:.0f} MiB in {seconds:.0f} s, {how}")
            met &= how != "saved" and most - usual < 64 * MIB and seconds < 40
    return "; ".join(found), met


def damaged_part(service: Service) -> Measured:
    """Stop our client within a file, overwrite 4 KiB of what it has, and let it go on."""
    url, size = f"http://127.0.0.1:{service.port}", 250_000_000
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "file", Path(folder) / "whole"
        part = path.with_name("file.part")
        process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT, url, str(path), str(size), "philox"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (part.exists() and part.stat().st_blocks * 512 > 64 * MIB):
            time.sleep(0.01)
        process.kill()
        process.wait()
        if path.exists():
            raise RuntimeError("the file was whole before its client was stopped")
        with part.open("r+b") as file:
            file.seek(MIB)
            file.write(bytes(4096))
        client(url, path, size)
        client(url, whole, size)
        same = subprocess.run(["cmp", "-s", path, whole], check=False).returncode == 0
    return "found, and drawn again" if same else "saved as good", same
