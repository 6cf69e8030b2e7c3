"""The golden files on a GPU: a part of them here, because the interpreter is slow; all of them on a real GPU."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cuda import fill, prepare
from weightwell_engine.laws import Constant, Lattice, Law, Normal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

GOLDEN = Path(__file__).parents[4] / "golden" / "philox-v1.json"
KINDS: dict[str, type[Any]] = {
    "constant": Constant,
    "uniform": Uniform,
    "normal": Normal,
    "truncated_normal": TruncatedNormal,
    "lattice": Lattice,
    "sparse": Sparse,
}
Case = dict[str, Any]


def _few(cases: list[Case]) -> list[Case]:
    """Return some cases of every law in every dtype, and most of them in float32; none of the large ones."""
    small = [case for case in cases if case["runs"]["length"] < 10**5]
    singles = [case for case in small if case["dtype"] == "float32"]
    return singles[::2] + [case for case in small if case["dtype"] != "float32"][::7]


CASES = _few(json.loads(GOLDEN.read_text("utf-8")))


def _law(kind: str, **parameters: Any) -> Law:
    law: Law = KINDS[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in parameters.items()})
    return law


def _digest(case: Case) -> str:
    runs, dtype = Runs(**{name: int(value) for name, value in case["runs"].items()}), DTYPES[case["dtype"]]
    out = torch.empty(runs.size * dtype.itemsize, dtype=torch.uint8)
    prepared = prepare(_law(**case["law"]), dtype, int(case["seed"]), case["name"], out.device)
    fill([(prepared, runs, 0)], out)
    return sha256(out.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_every_digest_is_golden(kind: str) -> None:
    wrong = [case for case in CASES if case["law"]["kind"] == kind and _digest(case) != case["sha256"]]
    assert not wrong
