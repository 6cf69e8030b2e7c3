"""Ways from a client to a replica, compared side by side: directly, by packet forwarding, through nginx and HAProxy.

    python -m benchmarks.proxies
    unshare -n sh -c 'ip link set lo up; python -m benchmarks.proxies'   # as root: also by packet forwarding

For each way, prints the time to the first byte, the throughput, its ratio to the direct way in the same rounds, and the
CPU time of the proxy for a GB. On few CPUs, the ratio depends on what else runs; the CPU time does so less. Needs
curl and nginx on the PATH. HAProxy is left out if it is absent. Packet forwarding (iptables, as for a Service of
Kubernetes) is left out unless the process is in a network namespace with no interface but loopback.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.http import free_port, running
from benchmarks.measure import interleave, table

MIB = 2**20

_NGINX = """
daemon off; worker_processes 2; pid {root}/{port}.pid; error_log {root}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root};
  scgi_temp_path {root};
  upstream replica {{ server 127.0.0.1:{replica}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0;
      {directives}
    }}
  }}
}}
"""

_BUFFERS = "proxy_buffer_size 256k; proxy_buffers {count} 256k; proxy_busy_buffers_size 512k;"

NGINX = {
    "nginx, its defaults": "",
    "nginx, 8 buffers of 256k": _BUFFERS.format(count=8),
    "nginx, no buffering, its defaults": "proxy_buffering off;",
    "nginx, no buffering, 256k (docs/deployment.md)": "proxy_buffering off; " + _BUFFERS.format(count=4),
}

_HAPROXY = """
global
  {tuning}
defaults
  mode {mode}
  timeout connect 2s
  timeout client 300s
  timeout server 300s
  {option}
listen weightwell
  bind 127.0.0.1:{port}
  server replica 127.0.0.1:{replica}
"""

# The mode, the tuning, an option.
HAPROXY = {
    "HAProxy, its defaults": ("http", "", ""),
    "HAProxy, tune.bufsize 262144": ("http", "tune.bufsize 262144", ""),
    "HAProxy, splicing (docs/scaling.md)": ("http", "tune.pipesize 1048576", "option splice-response"),
    "HAProxy of layer 4, splicing": ("tcp", "tune.pipesize 1048576", "option splice-response"),
}


class Way:
    """One way to a replica: a port, and the process of its proxy, if there is one."""

    def __init__(self, port: int, pid: int | None = None):
        self.port = port
        self.pid = pid
        self.first_bytes: list[float] = []
        self.cpu: list[float] = []

    def download(self, target: str, nbytes: int) -> float:
        """Return the seconds that curl takes for a file, and note the rest."""
        before = self._cpu()
        url = f"http://127.0.0.1:{self.port}{target}"
        command = ["curl", "-sf", "-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total} %{size_download}", url]
        first, total, size = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        if int(size) < nbytes:
            raise RuntimeError(f"{url} gave {size} bytes, expected at least {nbytes}")
        self.first_bytes.append(float(first))
        self.cpu.append((self._cpu() - before) / (nbytes / 1e9))
        return float(total)

    def _cpu(self) -> float:
        """Return the seconds of CPU of the proxy's process and its workers."""
        if self.pid is None:
            return 0.0
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (str(self.pid), *workers))
        return sum(int(each[11]) + int(each[12]) for each in stats) / os.sysconf("SC_CLK_TCK")


def measure(title: str, ways: dict[str, Way], target: str, *, mebibytes: int, rounds: int) -> None:
    """Measure one file over every way, and print the table."""

    def download(way: Way) -> Callable[[], float]:
        way.first_bytes, way.cpu = [], []
        return lambda: way.download(target, mebibytes * MIB)

    medians = interleave({name: download(way) for name, way in ways.items()}, rounds)
    direct = next(iter(medians.values()))
    rows = [
        (
            name,
            f"{median(ways[name].first_bytes) * 1e3:.1f}",
            f"{mebibytes * MIB / seconds / 1e9:.2f}",
            f"{direct / seconds:.2f}",
            f"{median(ways[name].cpu):.2f}" if ways[name].pid else "",
        )
        for name, seconds in medians.items()
    ]
    table(title, ("way", "first byte, ms", "GB/s", "of the direct way", "CPU of the proxy, s/GB"), rows)


def forwarded(port: int) -> int | None:
    """Forward a new port to a port by the kernel, as a Service of Kubernetes does; None if it is not allowed."""
    if shutil.which("iptables") is None or [name for _, name in socket.if_nameindex()] != ["lo"]:
        return None  # never change the rules of the whole machine
    new = free_port()
    rule = f"-A OUTPUT -p tcp -d 127.0.0.1 --dport {new} -j DNAT --to-destination 127.0.0.1:{port}"
    done = subprocess.run(["iptables", "-t", "nat", *rule.split()], check=False, capture_output=True)
    return None if done.returncode else new


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; medians are printed")
    parser.add_argument("--mebibytes", type=int, default=512, help="size of the file")
    options = parser.parse_args()
    missing = [tool for tool in ("curl", "nginx") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"the benchmark needs {' and '.join(missing)} on the PATH, e.g. apt-get install {' '.join(missing)}")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.chmod(0o755)
        replica = free_port()
        stack.enter_context(running([sys.executable, "-m", "weightwell_service", "--port", str(replica)], replica))
        ways = {"directly": Way(replica)}
        if new := forwarded(replica):
            ways["packet forwarding (an L4 Service)"] = Way(new)
        for name, directives in NGINX.items():
            port = free_port()
            path = root / f"{port}.conf"
            path.write_text(_NGINX.format(root=root, port=port, replica=replica, directives=directives))
            command = ["nginx", "-p", str(root), "-c", str(path)]
            ways[name] = Way(port, stack.enter_context(running(command, port)))
        for name, (mode, tuning, option) in HAPROXY.items() if shutil.which("haproxy") else ():
            port = free_port()
            path = root / f"{port}.cfg"
            text = _HAPROXY.format(mode=mode, tuning=tuning, option=option, port=port, replica=replica)
            path.write_text(text)
            ways[name] = Way(port, stack.enter_context(running(["haproxy", "-f", str(path)], port)))
        size = {"mebibytes": options.mebibytes, "rounds": options.rounds}
        shape = f"shape={options.mebibytes * 256},1024"
        title = f"{options.mebibytes} MiB of float32"
        measure(f"Constants, {title}", ways, f"/init?{shape}&scheme=constant&val=0.5", **size)
        measure(f"Normals, {title}", ways, f"/init?{shape}&scheme=normal", **size)


if __name__ == "__main__":
    main()
