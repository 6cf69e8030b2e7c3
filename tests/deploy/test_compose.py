"""Three replicas behind nginx, with the configuration of deploy/compose: a replica dies, and clients go on."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import weightwell
from benchmarks.http import free_port, running
from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
CONFIGURATION = (FOLDER / "nginx.conf").read_text()
COMPOSE: Any = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
SHAPE = (4096, 1024)
TARGET = "/init?shape=4096,1024&scheme=normal&seed=7"

# The replicas are children of one process, so that torch is imported once.
REPLICAS = """
import os, signal, sys
import torch
from weightwell_service.__main__ import main
for port in sys.argv[1:]:
    child = os.fork()
    if not child:
        os._exit(main(["--port", port, "--threads", "1", "--no-access-log"]))
    print(child, flush=True)
signal.pause()
"""


@dataclass
class Replica:
    port: int
    pid: int

    @property
    def responses(self) -> float:
        """The files that it is sending."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        (value,) = re.findall(r"^weightwell_responses (\S+)$", text, re.MULTILINE)
        return float(value)


@dataclass
class Fleet:
    url: str
    replicas: list[Replica]

    def end_the_one_that_sends(self, folder: Path, number: int = signal.SIGKILL) -> None:
        """Send a signal to the replica that is sending a file, as soon as bytes of it are in a folder."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for replica in self.replicas:
                if replica.responses and any(path.stat().st_size for path in folder.iterdir()):
                    os.kill(replica.pid, number)
                    self.replicas.remove(replica)
                    return
            assert time.monotonic() < deadline, "no replica sends"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    door, *ports = (free_port() for _ in range(4))
    text = CONFIGURATION.replace("/tmp/", f"{folder}/")  # noqa: S108
    for number, port in enumerate(ports, 1):
        text = text.replace(f"weightwell-{number}:8000", f"127.0.0.1:{port}")
    # Slow enough for a replica to die in the middle: 16 MiB take more than a second.
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{door}; limit_rate 12m;")
    (folder / "nginx.conf").write_text("daemon off;\n" + text)
    command = [sys.executable, "-c", REPLICAS, *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(parent.stdout.readline()) for _ in ports]
        try:
            for port in ports:
                ready(port)
            with running([nginx, "-e", "stderr", "-c", str(folder / "nginx.conf")], door):
                yield Fleet(f"http://127.0.0.1:{door}", [Replica(*each) for each in zip(ports, pids, strict=True)])
        finally:
            for pid in (*pids, parent.pid):
                os.kill(pid, signal.SIGKILL)


def ready(port: int) -> None:
    transport = httpx.HTTPTransport(retries=10)  # while it starts
    with httpx.Client(transport=transport, timeout=PATIENCE, trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture(scope="module")
def right() -> str:
    """The SHA-256 of the file, drawn in this process."""
    with weightwell.local() as client, client.open(SHAPE, "normal", seed=7) as file:
        return hashlib.sha256(file.read()).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def beside(run: Callable[[], Any], other: Callable[[], None]) -> Any:
    """Run two functions at once; return the result of the first."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run)
        other()
        return result.result(PATIENCE)


def test_curl_continues_a_file_from_another_replica(fleet: Fleet, right: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    command = ["curl", "-sf", "-C", "-", "-o", str(path), fleet.url + TARGET]
    broken = beside(lambda: subprocess.run(command, check=False), lambda: fleet.end_the_one_that_sends(tmp_path))
    assert broken.returncode == 18  # a part of the file
    had = path.stat().st_size
    subprocess.run(command, check=True)
    assert 0 < had < path.stat().st_size
    assert digest(path) == right


def test_the_client_continues_a_file_from_another_replica(fleet: Fleet, right: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with weightwell.Client(fleet.url, progress=False, connections=1) as client:
        beside(lambda: client.save(path, SHAPE, "normal", seed=7), lambda: fleet.end_the_one_that_sends(tmp_path))
    assert digest(path) == right


def test_a_replica_that_is_stopped_ends_the_file_that_it_sends(fleet: Fleet, right: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    replica = fleet.replicas[-1]
    command = ["curl", "-sf", "-o", str(path), fleet.url + TARGET]
    whole = beside(
        lambda: subprocess.run(command, check=False), lambda: fleet.end_the_one_that_sends(tmp_path, signal.SIGTERM)
    )
    assert whole.returncode == 0
    assert digest(path) == right
    deadline = time.monotonic() + PATIENCE
    while accepts(replica.port):
        assert time.monotonic() < deadline, "it takes new connections"


# The files ------------------------------------------------------------------------------------------------------------


def location(text: str) -> list[str]:
    """The directives of the location, but for the one that only several replicas need."""
    (block,) = re.findall(r"location / \{\n(.*?)\n +\}", text, re.DOTALL)
    lines = [line.strip() for line in block.splitlines()]
    only_replicas = ("proxy_connect_timeout", "proxy_next_upstream", "# A request may be sent again")
    return [line for line in lines if not line.startswith(only_replicas)]


def test_the_deployment_page_has_the_same_directives() -> None:
    assert location(CONFIGURATION) == location((ROOT / "docs/deployment.md").read_text())


def test_nginx_names_every_replica() -> None:
    named = re.findall(r"server (weightwell-\d):8000", CONFIGURATION)
    assert named == [name for name in COMPOSE["services"] if name != "nginx"]
    assert named == list(COMPOSE["services"]["nginx"]["depends_on"])


def test_a_replica_has_memory_for_its_budget_and_time_to_end() -> None:
    replica = COMPOSE["services"]["weightwell-1"]
    environment = replica["environment"]
    memory = int(replica["mem_limit"].removesuffix("g")) * 2**30
    assert memory == environment["WEIGHTWELL_MAX_RESIDENT_BYTES"] + 2**30
    assert int(replica["stop_grace_period"].removesuffix("s")) >= environment["WEIGHTWELL_DRAIN_SECONDS"] + 30 + 10
