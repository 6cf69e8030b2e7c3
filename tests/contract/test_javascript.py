"""A JavaScript program with another safetensors library reads the same bits as torch."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from weightwell_engine.dtypes import DTYPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http.md").read_text()

# The dtypes that the library reads; the page says so as well.
DRAWN = ("float64", "float32", "float16")
READABLE = (*DRAWN, "int64", "int32", "int16", "int8", "uint8", "bool")

# Prints every value of every tensor. JavaScript writes a number with the digits that tell it from every other double,
# and every float32 and float16 is a double, so what Python reads has the bits that JavaScript saw.
PRINT_ALL = """
import { draw } from "./weights.js";
const [url, manifest] = process.argv.slice(1);
const { tensors } = await draw(url, manifest && JSON.parse(manifest));
for (const [name, { dtype, shape, data }] of Object.entries(tensors))
  console.log(JSON.stringify([name, dtype, shape, [...data]]));
"""


class Read(NamedTuple):
    """A tensor as JavaScript sees it."""

    name: str
    code: str
    shape: list[int]
    values: list[float]


class Example:
    """The example with its dependencies installed."""

    def __init__(self, directory: Path, server: str):
        self._directory = directory
        self._url = f"{server}/init"

    def node(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", *arguments], cwd=self._directory, capture_output=True, text=True, timeout=60, check=False
        )

    def draw(self, query: str) -> subprocess.CompletedProcess[str]:
        """Run the program as the page does."""
        return self.node("draw.js", f"{self._url}?generator=torch&{query}")

    def read(self, query: str = "", manifest: object = None) -> list[Read]:
        """Read every value of the file of a query or a manifest."""
        arguments = [f"{self._url}?{query}&generator=torch"] if manifest is None else [self._url, json.dumps(manifest)]
        done = self.node("--input-type=module", "--eval", PRINT_ALL, *arguments)
        assert done.returncode == 0, done.stderr
        return [Read(*json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def example(server: str, tmp_path_factory: pytest.TempPathFactory) -> Example:
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed: nothing here can run JavaScript")
    directory = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(ROOT / "examples" / "javascript", directory, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return Example(directory, server)


def kaiming_normal(*shape: int, dtype: str = "float32", seed: int | torch.Generator = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.nn.init.kaiming_normal_(tensor, generator=generator)


def as_read(name: str, tensor: Tensor) -> Read:
    code = DTYPES[str(tensor.dtype).removeprefix("torch.")].code
    return Read(name, code, list(tensor.shape), tensor.double().flatten().tolist())


@pytest.mark.parametrize("dtype", DRAWN)
def test_a_tensor_has_the_values_that_torch_draws(example: Example, dtype: str) -> None:
    read = example.read(f"shape=24,5,3,3&scheme=kaiming_normal&seed=7&name=conv.weight&dtype={dtype}")
    assert read == [as_read("conv.weight", kaiming_normal(24, 5, 3, 3, dtype=dtype, seed=7))]


def test_a_slice_has_the_values_of_the_whole(example: Example) -> None:
    [read] = example.read("shape=40,50&scheme=kaiming_normal&seed=7&slice=3:17,5:50")
    assert read == as_read("weight", kaiming_normal(40, 50, seed=7)[3:17, 5:50])


def test_the_tensors_of_a_manifest_have_the_values_that_torch_draws_in_order(example: Example) -> None:
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "embedding": ((33, 7), "float16"),
        "fc1": ((64, 33), "float32"),
        "empty": ((0, 3), "float16"),
        "fc2": ((10, 64), "float64"),
    }
    tensors: dict[str, Any] = {
        name: {"shape": shape, "dtype": dtype, "scheme": "kaiming_normal"} for name, (shape, dtype) in shapes.items()
    }
    generator = torch.Generator().manual_seed(11)
    drawn = {
        name: kaiming_normal(*shape, dtype=dtype, seed=generator)
        for name, (shape, dtype) in shapes.items()
        if name != "empty"
    }
    drawn["empty"] = torch.empty(0, 3, dtype=torch.float16)
    read = example.read(manifest={"generator": "torch", "seed": 11, "tensors": tensors})
    assert {each.name: each for each in read} == {name: as_read(name, tensor) for name, tensor in drawn.items()}


def test_a_scalar_is_one_value(example: Example) -> None:
    assert example.read("shape=&scheme=constant&val=0.1") == [as_read("weight", torch.tensor(0.1))]


def test_a_seed_above_2_to_the_53rd_arrives_as_it_was_written(example: Example) -> None:
    # As a double this seed is even, and torch draws something else.
    seed = 2**53 + 1
    spec = {"generator": "torch", "shape": [4, 4], "scheme": "kaiming_normal", "seed": str(seed)}
    assert example.read(manifest=spec) == [as_read("weight", kaiming_normal(4, 4, seed=seed))]


def test_the_program_prints_name_dtype_shape_and_values(example: Example) -> None:
    [line] = example.draw("shape=512,784&scheme=kaiming_normal&seed=42").stdout.splitlines()
    name, code, shape, *values = line.split()
    assert (name, code, shape) == ("weight", "F32", "[512,784]")
    assert [float(value) for value in values] == kaiming_normal(512, 784, seed=42).flatten()[:5].tolist()


def test_the_program_prints_the_error_of_the_server(example: Example) -> None:
    done = example.draw("shape=3&scheme=normal&std=-1")
    assert done.returncode != 0
    assert "std must be greater than or equal to 0, got '-1'" in done.stderr


def test_integers_are_read_with_all_their_digits(example: Example) -> None:
    done = example.draw("shape=2&scheme=constant&val=-9007199254740991&dtype=int64")
    assert done.stdout == "weight I64 [2] -9007199254740991 -9007199254740991\n"


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype not in READABLE])
def test_other_dtypes_are_refused_and_not_misread(example: Example, dtype: str) -> None:
    done = example.draw(f"shape=4&scheme=ones&dtype={dtype}")
    assert done.returncode != 0
    assert f"Unsupported dtype: {DTYPES[dtype].code}" in done.stderr


def test_the_page_says_which_dtypes_are_read() -> None:
    [sentence] = re.findall(r"^The library reads (.*?)\.", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(.*?)`", sentence)) == set(READABLE)


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (ROOT / "examples" / "javascript" / "package-lock.json").read_text()
