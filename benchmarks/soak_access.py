"""Tokens: whether their limits hold for eight processes, and what a wrong one costs.

Each function asks a running service, and returns what it measured, and whether the goal is met.
"""

import http.client
import socket
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from weightwell_service.access.signatures import signed

# Those of the tokens are their names. "right" is the last of many.
KEY = "k" * 32
RIGHT, NARROW, DAILY = "wwt_right", "wwt_narrow", "wwt_daily"
MANY, ANSWERS, BYTES = 1000, 20, 1_000_000

INIT = "/init?shape=1000&scheme=normal"
LARGE = "/init?shape=16384,16384&scheme=normal"
DOORS = [INIT, "/plan?shape=4&scheme=normal", "/tiny/gpt2/resolve/main/config.json", "/s3/tiny/gpt2/config.json"]

Measured = tuple[str, bool]


class Service(Protocol):
    """A running service."""

    port: int

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection and send something."""


def tokens_file(folder: Path) -> Path:
    """Write the file of tokens."""
    limits = {f"other{number}": "" for number in range(MANY)}
    limits |= {NARROW: f"max_responses = {ANSWERS}", DAILY: f"bytes_per_day = {BYTES}", RIGHT: ""}
    path = folder / "tokens.toml"
    path.write_text(
        f'signing_key = "{KEY}"\n'
        + "".join(
            f'[[tokens]]\nname = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n{limit}\n'
            for name, limit in limits.items()
        )
    )
    return path


def shared(service: Service) -> Measured:
    """Take as many bytes and answers as there are, at several doors at once, with a token and with signed addresses."""
    expires = int(time.time()) + 3600

    def take(number: int) -> tuple[int, int]:
        """Ask once, on a connection of its own; return the status and the bytes of the body."""
        path = DOORS[number % len(DOORS)]
        headers = {"Authorization": f"Bearer {DAILY}"}
        if number % 3 == 0:
            path, headers = signed(path, DAILY, KEY.encode(), expires), {}
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("GET", path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, len(body)

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(take, range(3000)))
    nbytes = sum(length for status, length in answers if status == 200)
    refused = Counter(status for status, _ in answers)
    with ExitStack() as readers:
        head = f"GET {LARGE} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {NARROW}\r\n\r\n".encode()
        connections = [readers.enter_context(service.connect(head)) for _ in range(200)]
        statuses = Counter(int(each.recv(12).split()[1]) for each in connections)
    return (
        f"{nbytes} of {BYTES} bytes, {statuses[200]} of {ANSWERS} answers at once; "
        f"refused {refused[429] + refused[503]} of 3000 and {statuses[429]} of 200",
        BYTES - 10_000 < nbytes <= BYTES
        and set(refused) <= {200, 429, 503}
        and (statuses[200], statuses[429]) == (ANSWERS, 200 - ANSWERS),
    )


def wrong(service: Service) -> Measured:
    """Ask for a path that does not exist with tokens that are right, and wrong, in turns on one connection.

    How near a wrong token is to a right one, and where a right one is in the file, must not show. A right token takes
    longer than a wrong one, because its answer is a 404, after the search for a route.
    """
    tokens = {"right": RIGHT, "first": "other0", "wrong": "x" * len(RIGHT), "nearly right": RIGHT[:-1] + "x"}
    times: dict[str, list[float]] = {name: [] for name in tokens}
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for _ in range(2000):
        for name, token in tokens.items():
            begin = time.perf_counter()
            connection.request("GET", "/nowhere", headers={"Authorization": f"Bearer {token}"})
            connection.getresponse().read()
            times[name].append(time.perf_counter() - begin)
    medians = {name: 1000 * statistics.median(each) for name, each in times.items()}
    ratios = medians["nearly right"] / medians["wrong"], medians["first"] / medians["right"]
    shown = ", ".join(f"{name} {median:.3f} ms" for name, median in medians.items())
    return shown, all(0.95 < ratio < 1.05 for ratio in ratios)
