"""examples/shards on Ray: a local cluster writes the files of a checkpoint, one task a file."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import ROOT, Client, clients
from tests.contract.test_shards_example import SCRIPT, arguments, assert_same_as_one_process
from tests.counting import Server

(RAY,) = clients("write.py")


@pytest.mark.parametrize("door", ["in process", "from a server"])
def test_tasks_of_ray_write_what_one_process_writes(
    door: str, installed: Callable[[Client], Client], counting: Server, tmp_path: Path
) -> None:
    client = installed(RAY)
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local", "no_proxy": "127.0.0.1"}
    settings["PYTHONPATH"] = f"{ROOT / 'client'}:{ROOT / 'service'}"
    if door == "from a server":
        settings["WEIGHTWELL_URL"] = counting.url
    begin = len(counting.sent)
    done = subprocess.run(
        [str(client.python), str(SCRIPT), *arguments(tmp_path / "model")],
        capture_output=True,
        text=True,
        env=os.environ | settings,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as_one_process(tmp_path / "model", tmp_path / "other")
    files = [path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors")]
    assert counting.since(begin).nbytes("/init") == (sum(files) if door == "from a server" else 0)
