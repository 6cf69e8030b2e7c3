"""Sources: a command line names a model by a configuration of transformers, or by a function."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from weightwell.__main__ import main
from weightwell.models.sources import builder_of

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 24,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a module of Python, which is the current one."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    build = "def build():\n    layer = nn.Linear(3, 2)\n    nn.init.ones_(layer.bias)\n    return layer\n"
    (tmp_path / "mine.py").write_text(f"from torch import nn\n\n{build}\nlayer = 1\n")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_builds_a_model(folder: Path) -> None:
    del folder
    assert isinstance(builder_of("mine:build")(), nn.Linear)
    assert builder_of("torch.nn:ReLU") is nn.ReLU


@pytest.mark.parametrize("source", [".", "config.json"])
def test_a_configuration_builds_the_first_of_its_architectures(folder: Path, source: str) -> None:
    del folder
    assert type(builder_of(source)()).__name__ == "LlamaForCausalLM"


def test_a_configuration_without_architectures_builds_the_model_without_a_head(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(SMALL | {"architectures": None}))
    assert type(builder_of(".")()).__name__ == "LlamaModel"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("nowhere.json", r"expected the path of a config\.json .*; there is no file 'nowhere\.json'"),
        ("mine:nothing", r"cannot import mine:nothing: .* has no attribute 'nothing'"),
        ("nowhere:build", r"cannot import nowhere:build: No module named 'nowhere'"),
        ("mine:layer", r"mine:layer must be a function that returns a torch module, got 1"),
        ("mine.py", r"mine\.py is no configuration of transformers: it has no model_type"),
    ],
)
def test_what_is_no_source_is_named(folder: Path, source: str, error: str) -> None:
    del folder
    with pytest.raises(ValueError, match=error):
        builder_of(source)


def test_the_command_writes_a_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", ".", "-o", "manifest.json", "--seed", "7", "--dtype", "bfloat16"]) == 0
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    assert (manifest["seed"], manifest["dtype"]) == (7, "bfloat16")
    assert manifest["tensors"]["model.norm.weight"]["scheme"] == "ones"
    assert main(["record", "mine:build"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"]["bias"] == {
        "shape": [2],
        "module": "Linear",
        "scheme": "ones",
    }


def test_the_command_says_which_line_gave_a_law(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "mine:build", "--explain"]) == 0
    weight, bias = capsys.readouterr().out.splitlines()
    assert weight.split("  ")[:2] == ["weight", "[2, 3]"]
    assert bias.split()[:3] == ["bias", "[2]", "ones"]
    assert bias.endswith(f"{folder / 'mine.py'}:5")


def test_the_command_names_what_cannot_be_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from torch import nn, empty\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    (folder / "unwritten.py").write_text(f"{text}        self.scale = nn.Parameter(empty(3))\n")
    assert main(["record", "unwritten:Net"]) == 2
    assert "scale: it was never written" in capsys.readouterr().err
