"""Processes that are killed and services that are restarted while files are read: no file may be lost or wrong.

Each function runs readers of three kinds (our client, ``curl -C -``, and aria2c if it is installed), kills or restarts
something again and again until all have ended, and compares the SHA-256 of every file with that of a file drawn here.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.request import ProxyHandler, build_opener

import weightwell
from benchmarks.http import free_port, running

Measured = tuple[str, bool]

SHAPE = (8192, 1024)  # 32 MiB
SEEDS = range(6)
RATE = 4_000_000  # bytes a second for each reader: a file takes 8 s, so that it is read while things happen
PATIENCE = 240.0

HAPROXY = """
global
  tune.pipesize 1048576
defaults
  mode http
  option splice-response
  option redispatch
  retry-on conn-failure empty-response
  timeout connect 2s
  timeout client 300s
  timeout server 300s
frontend all
  bind 127.0.0.1:{door}
  default_backend replicas
backend replicas
  option httpchk GET /health/ready
{servers}
"""


class Service(Protocol):
    """A running service."""

    port: int
    pid: int
    log: Path


def target(seed: int) -> str:
    """Return the path and the query of a file."""
    return f"/init?shape={SHAPE[0]},{SHAPE[1]}&scheme=normal&seed={seed}"


def _again(command: Sequence[str], path: Path, nbytes: int) -> None:
    """Run a command until its file is whole; each run continues the file."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode == 0 and path.stat().st_size == nbytes:
            return
        time.sleep(0.3)
    raise TimeoutError(command[0])


def _with_curl(url: str, seed: int, path: Path, nbytes: int) -> None:
    _again(["curl", "-sf", "--limit-rate", str(RATE), "-C", "-", "-o", str(path), url + target(seed)], path, nbytes)


def _with_aria2c(url: str, seed: int, path: Path, nbytes: int) -> None:
    options = ["-q", "-x", "2", "-s", "2", "-k", "1M", "-c", "-m", "50", "--retry-wait", "1", "--file-allocation=none"]
    options += [f"--max-overall-download-limit={RATE}", "-d", str(path.parent), "-o", path.name]
    _again(["aria2c", *options, url + target(seed)], path, nbytes)


_CLIENT = """
import sys, weightwell
url, path, rows, columns, seed = sys.argv[1:]
with weightwell.Client(url, progress=False, wait=120) as client:
    client.save(path, (int(rows), int(columns)), "normal", seed=int(seed))
"""


def _with_client(url: str, seed: int, path: Path, nbytes: int) -> None:
    _again([sys.executable, "-c", _CLIENT, url, str(path), *map(str, (*SHAPE, seed))], path, nbytes)


def _kinds() -> dict[str, Callable[[str, int, Path, int], None]]:
    kinds = {"client": _with_client, "curl": _with_curl, "aria2c": _with_aria2c}
    return {name: kind for name, kind in kinds.items() if name == "client" or shutil.which(name)}


def read_while(url: str, disturb: Callable[[], None], pause: float) -> Measured:
    """Read files with every kind of reader, and disturb them until all have ended."""
    with weightwell.local() as client:
        right = {}
        for seed in SEEDS:
            with client.open(SHAPE, "normal", seed=seed) as file:
                data = file.read()
            right[seed] = hashlib.sha256(data).hexdigest()
    kinds, disturbed = _kinds(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(kinds) * len(SEEDS)) as pool:
        jobs = {}
        for name, kind in kinds.items():
            for seed in SEEDS:
                path = Path(folder, f"{name}-{seed}")
                jobs[path] = seed, pool.submit(kind, url, seed, path, len(data))
        time.sleep(2)
        while not all(job.done() for _, job in jobs.values()):
            disturb()
            disturbed += 1
            time.sleep(pause)
        lost = [path.name for path, (_, job) in jobs.items() if job.exception()]
        wrong = [
            path.name
            for path, (seed, job) in jobs.items()
            if not job.exception() and hashlib.sha256(path.read_bytes()).hexdigest() != right[seed]
        ]
    readers = f"{len(jobs)} files ({', '.join(kinds)}), {disturbed} times"
    return f"{readers}: {len(lost)} lost, {len(wrong)} wrong", not lost and not wrong and disturbed > 0


def workers_of(service: Service) -> list[int]:
    """Return the processes that serve, the latest last."""
    return [int(each) for each in re.findall(r"Started server process \[(\d+)\]", service.log.read_text())]


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed_workers(service: Service) -> Measured:
    """Kill one of two workers each few seconds."""

    def kill() -> None:
        alive = [each for each in workers_of(service) if _alive(each)]
        if len(alive) > 1:  # else the one that died has not been replaced yet
            os.kill(alive[0], signal.SIGKILL)

    return read_while(f"http://127.0.0.1:{service.port}", kill, 3)


def restarted_workers(service: Service) -> Measured:
    """Replace two workers one by one, again and again."""

    def restart() -> None:
        before = len(workers_of(service))
        os.kill(service.pid, signal.SIGHUP)
        until = time.monotonic() + 60
        while len(workers_of(service)) < before + 2 and time.monotonic() < until:
            time.sleep(0.2)

    return read_while(f"http://127.0.0.1:{service.port}", restart, 2)


def killed_client(service: Service) -> Measured:
    """Kill our client in the middle of a file, run it again, and see whether it continues."""
    url, seed = f"http://127.0.0.1:{service.port}", 1
    command = [sys.executable, "-c", _CLIENT, url]
    with tempfile.TemporaryDirectory() as folder, weightwell.local() as client:
        path = Path(folder, "file")
        command += [str(path), "65536", "4096", str(seed)]  # 1 GiB
        kills, size = 0, 0
        while kills < 3:
            process = subprocess.Popen(command)
            while process.poll() is None and _size(folder) <= size + 50e6:
                time.sleep(0.02)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills, size = kills + 1, _size(folder)
        subprocess.run(command, check=True)
        with client.open((65536, 4096), "normal", seed=seed) as file, path.open("rb") as read:
            right = all(read.read(2**24) == part for part in iter(lambda: file.read(2**24), b"")) and not read.read(1)
    return f"killed {kills} times, then {'right' if right else 'wrong'}", right and kills > 0


def _size(folder: str) -> int:
    """Return the bytes on the disk of the files in a folder; a .part is a file with holes."""
    return sum(path.stat().st_blocks * 512 for path in Path(folder).iterdir())


class Replicas:
    """Replicas behind HAProxy, or behind nginx where it is not installed."""

    def __init__(self, count: int, stack: ExitStack):
        self._stack = stack
        self.ports = [free_port() for _ in range(count)]
        self._running = {port: self._start(port) for port in self.ports}
        self._turn = 0

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {"WEIGHTWELL_DRAIN_SECONDS": "3", "WEIGHTWELL_THREADS": "1"}
        command = [sys.executable, "-m", "weightwell_service", "--port", str(port), "--no-access-log"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.kill)
        ready(port)
        return process

    def end(self, number: int) -> None:
        """End the next replica by a signal, and start it again when it has ended."""
        port = self.ports[self._turn % len(self.ports)]
        self._turn += 1
        self._running[port].send_signal(number)
        self._running[port].wait(90)
        self._running[port] = self._start(port)


def ready(port: int) -> None:
    """Wait until a service is ready."""
    until, ask = time.monotonic() + 180, build_opener(ProxyHandler({}))
    while time.monotonic() < until:
        try:
            with ask.open(f"http://127.0.0.1:{port}/health/ready", timeout=60):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"port {port}")


@contextmanager
def fleet(count: int) -> Iterator[tuple[str, Replicas]]:
    """Run replicas behind HAProxy; yield the address of all."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replicas, door = Replicas(count, stack), free_port()
        checked = "check inter 500ms fall 1 rise 1"
        servers = "\n".join(f"  server replica-{port} 127.0.0.1:{port} {checked}" for port in replicas.ports)
        (folder / "haproxy.cfg").write_text(HAPROXY.format(door=door, servers=servers))
        stack.enter_context(running(["haproxy", "-q", "-f", str(folder / "haproxy.cfg")], door))
        yield f"http://127.0.0.1:{door}", replicas


def killed_replicas(_: Service) -> Measured:
    """Kill one of two replicas behind HAProxy, and start it again, in turns."""
    with fleet(2) as (url, replicas):
        return read_while(url, lambda: replicas.end(signal.SIGKILL), 1)


def restarted_replicas(_: Service) -> Measured:
    """Restart two replicas behind HAProxy in turns: each drains, ends, and starts again."""
    with fleet(2) as (url, replicas):
        return read_while(url, lambda: replicas.end(signal.SIGTERM), 1)
