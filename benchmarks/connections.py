"""One connection of the client compared with several, for one long file.

    python -m benchmarks.connections

Three networks: loopback; a relay that adds 20 ms and carries 100 MB/s per connection (benchmarks/relay.py); two
replicas of the service behind nginx. Needs nginx on the PATH.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import weightwell
from benchmarks.http import free_port, running
from benchmarks.measure import interleave, seconds, table

MIB = 2**20

_NGINX = """
daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root};
  scgi_temp_path {root};
  upstream replicas {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffers 8 512k; proxy_buffer_size 512k; proxy_busy_buffers_size 1m; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""


def measure(title: str, port: int, counts: list[int], *, mebibytes: int, rounds: int) -> None:
    """Measure one file over one network with each number of connections, and print the table."""
    url, shape = f"http://127.0.0.1:{port}", (mebibytes * 256, 1024)

    def draw(count: int) -> Callable[[], float]:
        client = weightwell.Client(url, connections=count, progress=False)
        return lambda: seconds(lambda: client.init(shape, "uniform"))

    medians = interleave({str(count): draw(count) for count in counts}, rounds)
    first = medians[str(counts[0])]
    rows = [(count, f"{mebibytes * MIB / found / 1e6:.0f}", f"{first / found:.2f}") for count, found in medians.items()]
    table(f"{title}, {mebibytes} MiB of uniform float32", ("connections", "MB/s", "times the first row"), rows)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds; medians are printed")
    parser.add_argument("--mebibytes", type=int, default=512, help="size of the file")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of connections")
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        sys.exit("the benchmark needs nginx on the PATH, e.g. apt-get install nginx")
    size = {"mebibytes": options.mebibytes, "rounds": options.rounds}
    one, two, proxy, slow = (free_port() for _ in range(4))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.chmod(0o755)
        (root / "nginx.conf").write_text(_NGINX.format(root=root, port=proxy, one=one, two=two))
        for port in (one, two):
            stack.enter_context(running([sys.executable, "-m", "weightwell_service", "--port", str(port)], port))
        relay = [sys.executable, "-m", "benchmarks.relay", str(slow), str(one), "--delay", "0.02", "--rate", "100e6"]
        stack.enter_context(running(relay, slow))
        stack.enter_context(running(["nginx", "-p", str(root), "-c", str(root / "nginx.conf")], proxy))
        measure("Loopback", one, options.counts, **size)
        measure("A relay: +20 ms, 100 MB/s per connection", slow, options.counts, **size)
        measure("Two replicas behind nginx", proxy, options.counts, **size)


if __name__ == "__main__":
    main()
