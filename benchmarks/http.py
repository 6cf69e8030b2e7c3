"""The service over HTTP, compared with a static file from nginx and with torch.nn.init in process.

    python -m benchmarks.http

For each file, prints the time to the first byte, the throughput of every way to get the file, and the ratio to torch.
All figures are from one run. Needs curl and nginx on the PATH. Serves on loopback only, and stops the servers at the
end.
"""

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import torch

import weightwell
from benchmarks.measure import interleave, seconds, table
from weightwell.models.pieces import host_memory

MIB = 2**20

NGINX = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root};
  scgi_temp_path {root};
  server {{ listen 127.0.0.1:{port}; root {root}/{files}; {directives} }}
}}
"""


@dataclass
class Case:
    """One file: its size in MiB, the scheme and parameters of the request, and the call that draws it with torch."""

    title: str
    mebibytes: int
    scheme: str
    parameters: dict[str, Any]
    torch: Callable[[torch.Tensor], torch.Tensor]
    first_bytes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a float32 matrix of this size."""
        return self.mebibytes * 256, 1024

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.mebibytes * MIB

    def url(self, base: str) -> str:
        """Return the URL of the request."""
        query = {"shape": ",".join(map(str, self.shape)), "scheme": self.scheme, **self.parameters}
        return str(httpx.URL(f"{base}/init", params=query))


def cases(scale: float) -> list[Case]:
    """Return the files. Their sizes are multiplied by ``scale``."""
    large, small = int(1024 * scale), int(256 * scale)
    init = torch.nn.init
    return [
        Case("constant", large, "constant", {"val": 0.5}, lambda t: init.constant_(t, 0.5)),
        Case("kaiming_normal, generator=torch", small, "kaiming_normal", {"generator": "torch"}, init.kaiming_normal_),
        Case("normal", large, "normal", {}, init.normal_),
        Case("uniform", large, "uniform", {}, init.uniform_),
    ]


def measure(case: Case, service: str, static: str, rounds: int) -> None:
    """Measure every way to get one file, and print the table."""
    present = torch.zeros(case.shape)
    with weightwell.Client(service, progress=False) as client:
        contenders: dict[str, Callable[[], float]] = {
            "curl from the service": lambda: _curl(case, "curl from the service", case.url(service)),
            "curl from nginx, a static file": lambda: _curl(case, "curl from nginx, a static file", static),
            "the client, into a tensor": lambda: seconds(
                lambda: client.init(case.shape, case.scheme, **case.parameters)
            ),
            "init_, into memory that is there": lambda: seconds(
                lambda: client.init_(present, case.scheme, **case.parameters)
            ),
            "a recv_into loop, into the same": lambda: seconds(lambda: _received(case.url(service), present)),
            "torch.nn.init in process": lambda: seconds(lambda: case.torch(torch.empty(case.shape))),
            "a memory fill": lambda: seconds(lambda: torch.empty(case.shape).fill_(1.0)),
        }
        medians = interleave(contenders, rounds)
    reference = medians["torch.nn.init in process"]
    rows = [
        (name, _first(case, name), f"{case.nbytes / value / 1e9:.2f}", f"{reference / value:.2f}")
        for name, value in medians.items()
    ]
    title = f"{case.title}, {case.mebibytes} MiB of float32"
    table(title, ("way", "first byte, ms", "GB/s", "times torch in process"), rows)


def _received(url: str, tensor: torch.Tensor) -> None:
    """Receive a body into the memory of a tensor as fast as Python can, without any check; the head goes there too."""
    address, memory = httpx.URL(url), host_memory(tensor)
    request = f"GET {address.raw_path.decode()} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(request.encode())
        position = 0
        while count := connection.recv_into(memory[position:] or memory):
            position += count
    if position < len(memory):
        raise RuntimeError(f"{url} gave {position} bytes, expected at least {len(memory)}")


def _first(case: Case, name: str) -> str:
    found = sorted(case.first_bytes.get(name, []))
    return f"{found[len(found) // 2] * 1e3:.2f}" if found else ""


def _curl(case: Case, name: str, url: str) -> float:
    command = ["curl", "-sf", "-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total} %{size_download}", url]
    first, total, size = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if int(size) < case.nbytes:
        raise RuntimeError(f"{url} gave {size} bytes, expected at least {case.nbytes}")
    case.first_bytes.setdefault(name, []).append(float(first))
    return float(total)


def memory_and_metadata(service: str, pid: int) -> None:
    """Print the cost of very large files: resident memory during streaming, HEAD of 1 PiB, and a range near its end."""
    petabyte = f"{service}/init?shape=16777216,16777216&scheme=normal"
    with httpx.Client() as http:
        size = int(http.head(petabyte).headers["content-length"])
        head = min(seconds(lambda: http.head(petabyte)) for _ in range(20))
        tail = {"range": f"bytes={size - MIB}-"}
        near_end = min(seconds(lambda: http.get(petabyte, headers=tail)) for _ in range(20))
        before, streamed, peak = _resident(pid), 0, 0
        with http.stream("GET", f"{service}/init?shape=16384,1048576&scheme=normal") as response:
            deadline = time.monotonic() + 20
            for chunk in response.iter_raw():
                streamed += len(chunk)
                peak = max(peak, _resident(pid))
                if time.monotonic() > deadline:
                    break
    rows = [
        ("HEAD of 1 PiB", f"{head * 1e3:.2f} ms"),
        ("1 MiB near the end of 1 PiB", f"{near_end * 1e3:.2f} ms"),
        (f"resident memory gained over {streamed / 2**30:.1f} GiB of 64 GiB", f"{(peak - before) / MIB:.0f} MiB"),
    ]
    table("Very large files", ("what", "figure"), rows)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[int]:
    """Run a server until the context ends; yield its process ID when it listens and, if it is ours, is ready."""
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180  # enough time to compile the kernels
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen on port {port}")
            time.sleep(0.05)
        with closing(HTTPConnection("127.0.0.1", port, timeout=180)) as connection:
            connection.request("GET", "/health/ready")
            connection.getresponse()  # other servers answer 404
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return an unused port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; medians are printed")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full sizes, for a quick look")
    arguments = parser.parse_args()
    missing = [tool for tool in ("curl", "nginx") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"the benchmark needs {' and '.join(missing)} on the PATH, e.g. apt-get install {' '.join(missing)}")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, {arguments.rounds} rounds")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.chmod(0o755)
        static, port = free_port(), free_port()
        (root / "nginx.conf").write_text(NGINX.format(root=root, port=static, files="", directives=""))
        stack.enter_context(running(["nginx", "-p", str(root), "-c", str(root / "nginx.conf")], static))
        service = [sys.executable, "-m", "weightwell_service", "--port", str(port)]
        pid = stack.enter_context(running(service, port, WEIGHTWELL_MAX_BYTES=str(2**51)))
        for case in cases(arguments.scale):
            (root / "file").write_bytes(bytes(case.nbytes))
            measure(case, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{static}/file", arguments.rounds)
        memory_and_metadata(f"http://127.0.0.1:{port}", pid)


if __name__ == "__main__":
    main()
