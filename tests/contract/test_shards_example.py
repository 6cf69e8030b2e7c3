"""examples/shards: tasks write the files of a checkpoint, one each, and together what one process writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import weightwell
from weightwell_service.repositories.library import BUILT_IN

SCRIPT = Path(__file__).parents[2] / "examples" / "shards" / "write.py"
LLAMA = BUILT_IN / "tiny" / "llama"
SIZE = "100KB"


def arguments(folder: Path) -> list[str]:
    """The command line of the script for a folder."""
    return [str(LLAMA / "manifest.json"), str(folder), "--config", str(LLAMA / "config.json"), "--size", SIZE]


def assert_same_as_one_process(folder: Path, other: Path) -> None:
    """Compare the files with those of one ``save``."""
    with weightwell.local(threads=1) as client:
        manifest = weightwell.Manifest.from_file(LLAMA / "manifest.json")
        client.save(other, manifest, max_shard_size=SIZE, config=LLAMA / "config.json")
    written, expected = ({each.name: each.read_bytes() for each in place.iterdir()} for place in (folder, other))
    assert len(expected) > 4
    assert written == expected
    assert json.loads(written["config.json"])["model_type"] == "llama"


def test_ranks_of_torchrun_write_what_one_process_writes(tmp_path: Path) -> None:
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    program += arguments(tmp_path / "model")
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_as_one_process(tmp_path / "model", tmp_path / "other")
