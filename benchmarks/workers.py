"""Several processes (WEIGHTWELL_WORKERS), compared with one process that has the same threads and memory.

    python -m benchmarks.workers                 # 1 and 2 processes
    python -m benchmarks.workers --workers 1 4

The services run at once and are measured in turns. The table has the medians over the rounds. Client and service share
the CPUs of this machine. Needs curl on the PATH.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from urllib.request import ProxyHandler, build_opener

from benchmarks.http import free_port, running
from benchmarks.measure import table
from benchmarks.requests import read

MIB = 2**20
SECONDS = 3.0


def files(port: int, readers: int, mebibytes: int) -> float:
    """Read a file of float32 normals with each reader at once; return GB/s of all together."""
    url = f"http://127.0.0.1:{port}/init?shape={mebibytes * 256},1024&scheme=normal"
    begin = time.perf_counter()
    jobs = [subprocess.Popen(["curl", "-sf", "-o", "/dev/null", url]) for _ in range(readers)]
    statuses = [job.wait() for job in jobs]
    if any(statuses):
        raise RuntimeError("curl failed")
    return readers * mebibytes * MIB / (time.perf_counter() - begin) / 1e9


def small(port: int, targets: Iterator[str]) -> float:
    """Return small requests a second, over eight connections."""
    rate, _ = asyncio.run(read(port, targets, SECONDS))
    return rate


def signals(port: int) -> float:
    """Return requests to /signal a second, over four connections."""
    ask = build_opener(ProxyHandler({}))

    def one(_: int) -> None:
        url = f"http://127.0.0.1:{port}/signal?depth=10&width=256&activation=tanh&scheme=xavier_normal"
        with ask.open(url, timeout=300) as answer:
            answer.read()

    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(8)))
    return 8 / (time.perf_counter() - begin)


def health(port: int) -> float:
    """Return the 99th percentile of /health/live in milliseconds while 16 readers read."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(files, port, 16, 32)
        found, ask = [], build_opener(ProxyHandler({}))
        while not reading.done():
            begin = time.perf_counter()
            with ask.open(f"http://127.0.0.1:{port}/health/live", timeout=60) as answer:
                answer.read()
            found.append(1000 * (time.perf_counter() - begin))
            time.sleep(0.005)
        reading.result()
    found.sort()
    return found[len(found) * 99 // 100]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="the numbers of processes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    numbers = iter(range(10**9))
    same, another = "/init?shape=16,16&scheme=normal", (f"/init?shape=16,16&scheme=normal&seed={n}" for n in numbers)
    measures: dict[str, Callable[[int], float]] = {
        "1 reader of 128 MiB, GB/s": lambda port: files(port, 1, 128),
        "16 readers of 32 MiB, GB/s": lambda port: files(port, 16, 32),
        "the same 16 x 16 normal, requests a second": lambda port: small(port, iter(lambda: same, None)),
        "another seed each time, requests a second": lambda port: small(port, another),
        "/signal, requests a second": signals,
        "/health/live while 16 readers read, p99, ms": health,
    }
    with ExitStack() as stack:
        ports = {}
        for workers in options.workers:
            ports[workers] = port = free_port()
            command = [sys.executable, "-m", "weightwell_service", "--port", str(port), "--no-access-log"]
            stack.enter_context(running(command, port, WEIGHTWELL_WORKERS=str(workers)))
        rows = []
        for title, measure in measures.items():
            rounds = [{workers: measure(port) for workers, port in ports.items()} for _ in range(options.rounds + 1)]
            medians = {workers: median(each[workers] for each in rounds[1:]) for workers in ports}
            first = medians[options.workers[0]]
            ratios = [f"{medians[workers] / first:.2f}" for workers in options.workers[1:]]
            rows.append((title, *(f"{value:.3g}" for value in medians.values()), *ratios))
    columns = (
        "what",
        *(f"{workers} processes" for workers in ports),
        *(f"ratio of {each}" for each in options.workers[1:]),
    )
    table(f"Processes of one service, {os.cpu_count()} CPUs", columns, rows)


if __name__ == "__main__":
    main()
