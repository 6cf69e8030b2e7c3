"""A second implementation in JavaScript, written from the text of the specification, draws the golden bytes."""

import json
import shutil
import subprocess
from math import prod
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
# The longest cases would take a minute here, and show nothing that the others do not.
LONGEST, LONGEST_OF_ALL = 10_000, 1 << 16


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node on the PATH")
@pytest.mark.parametrize(
    "file",
    [
        "philox-v1.json",
        "philox-v1-orthogonal.json",
        "philox-v1-axes.json",
        "philox-v1-clamped.json",
        "values-v1.json",
        "parts-v1.json",
        "dtypes-v1.json",
    ],
)
def test_a_second_implementation_draws_the_golden_bytes(file: str, *, exhaustive: bool) -> None:
    longest = LONGEST_OF_ALL if exhaustive else LONGEST
    cases = [case for case in json.loads((GOLDEN / file).read_text("utf-8")) if _length(case) <= longest]
    node = subprocess.run(
        ["node", Path(__file__).with_name("philox.mjs")],
        input="\n".join(map(json.dumps, cases)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert node.stdout.split() == [case["sha256"] for case in cases]


def _length(case: dict[str, Any]) -> int:
    length: int = case["runs"]["length"] if "runs" in case else prod(case["shape"])
    return length
