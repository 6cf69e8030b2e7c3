"""README.md, executed: what it shows runs against a real server, in the order in which a reader would try it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

PAGE = (Path(__file__).parents[2] / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"

PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CONSOLE = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(console: str, directory: Path, server: str) -> str:
    """Run the commands of a block, as somebody does who types them; return what they print."""
    commands = re.sub(r"^\$ ", "", console.replace(ADDRESS, server), flags=re.MULTILINE)
    commands = re.sub(r"^weightwell ", f"'{sys.executable}' -m weightwell ", commands, flags=re.MULTILINE)
    environment = {**os.environ, "WEIGHTWELL_URL": server, "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def execute(block: str, directory: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute a block of Python in a directory; return its names."""
    monkeypatch.chdir(directory)
    names: dict[str, Any] = {}
    exec(compile(block.replace(ADDRESS, server), "README.md", "exec"), names)  # noqa: S102 - our own page
    return names


def test_every_way_to_draw_the_first_tensor_gives_the_same_file(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_curl, with_python, with_command = (tmp_path / name for name in ("curl", "python", "command"))
    for directory in (with_curl, with_python, with_command):
        directory.mkdir()
    assert run(CONSOLE[0], with_curl, server).startswith('{"source":"torch","nonlinearity":"leaky_relu","param":0.2')
    names = execute(PYTHON[0], with_python, server, monkeypatch)
    run(CONSOLE[1], with_command, server)
    files = [directory / "weight.safetensors" for directory in (with_curl, with_python, with_command)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        assert torch.equal(file.get_tensor("weight"), names["weight"])
        assert torch.equal(file.get_slice("weight")[0:128], names["shard"])


def test_a_module_is_filled_as_the_page_says(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = execute(PYTHON[1], tmp_path, server, monkeypatch)["model"]
    weight = model[2].weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(10))


def test_a_manifest_is_planned_drawn_and_verified(server: str, tmp_path: Path) -> None:
    assert '"url":"/init?manifest=' in run(CONSOLE[2], tmp_path, server)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["fc.bias", "fc.weight", "wte.weight"]
        assert file.metadata()["lm_head.weight"] == "wte.weight"


def test_the_page_has_no_more_examples() -> None:
    assert (len(PYTHON), len(CONSOLE)) == (2, 3)
