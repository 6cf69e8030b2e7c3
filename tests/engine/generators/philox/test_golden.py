"""The golden files never change: if a test fails, the code is wrong. Never rewrite a golden file."""

import json
from contextlib import closing
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.specification.keys import VERSION
from weightwell_engine.laws import Law
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Plan
from weightwell_engine.regions import Runs

GOLDEN = Path(__file__).parents[3] / "golden"
FILES = {
    "philox-v1.json": "97032225c5ff29d221b16753c59f4097dc1075f56367f4e98ec871a63b00d737",
    "philox-v1-orthogonal.json": "c0e19f341218b73ceaf5c7ce3ce2d907b9a688d0acaa17784965a4f156c6a7d9",
    "philox-v1-axes.json": "395237e8a7e51702f61e648d03518524d552fc6ca55dee3d93ab052ccbc986b0",
    "philox-v1-clamped.json": "e9a2d85145310337b5519e38791782d30ee150d28453797288647ca4c12fcdfb",
    "values-v1.json": "1e1125a153782a5ba89f2a852d0f1efaec855c6699f7fe84d422abc448b22a9f",
    # Integers, powers of two, and dtypes of less than a byte; its runs count the items of a dtype, as plans do.
    "dtypes-v1.json": "efa19baeb19c15af0f03224bebc8614190823e420e30dcf850e71f85c091bfe6",
}
ENGINE = Engine(Cpu(), threads=1)
KINDS: dict[str, type[Any]] = {law.kind: law for law in get_args(Law)}
PARTS = "parts-v1.json", "41872286a3f720f2ca69bb9a0b7704b525d03c03596a11a587a7e87632b67bb6"
CASES: list[dict[str, Any]] = [case for file in FILES for case in json.loads((GOLDEN / file).read_text("utf-8"))]


def _law(kind: str, **parameters: Any) -> Law:
    law: Law = KINDS[kind](**{name: _parameter(value) for name, value in parameters.items()})
    return law


def _parameter(value: Any) -> Any:
    """Return a parameter of a law. Integers that may be large are text in JSON."""
    return tuple(value) if isinstance(value, list) else int(value) if isinstance(value, str) else value


def _kinds_of(dtype: DType) -> set[str]:
    """Return the kinds of laws that a dtype can have."""
    if dtype.is_integer:
        return {"constant", "lattice", "values", "randint"}
    return {*KINDS} - {"randint"} if dtype.is_real else {"constant", "values", "power_of_two"}


def _digest(case: dict[str, Any]) -> str:
    runs, dtype = Runs(**{name: int(value) for name, value in case["runs"].items()}), DTYPES[case["dtype"]]
    out = bytearray(runs.size * dtype.itemsize)
    prepare(_law(**case["law"]), dtype, int(case["seed"]), case["name"]).fill(runs, memoryview(out))
    assert bytes(out[:8]).hex() == case["begins"]
    return sha256(out).hexdigest()


def test_the_golden_files_are_of_this_version() -> None:
    assert VERSION == "philox4x32-10/1"


@pytest.mark.parametrize(("file", "digest"), [*FILES.items(), PARTS])
def test_a_golden_file_itself_is_what_it_was(file: str, digest: str) -> None:
    assert sha256((GOLDEN / file).read_bytes()).hexdigest() == digest


def test_the_golden_files_cover_every_law_and_dtype() -> None:
    expected = {(kind, name) for name, dtype in DTYPES.items() for kind in _kinds_of(dtype)}
    assert {(case["law"]["kind"], case["dtype"]) for case in CASES} == expected
    for case in CASES:
        assert {field.name for field in fields(KINDS[case["law"]["kind"]])} == set(case["law"]) - {"kind"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_digest_is_golden(kind: str) -> None:
    wrong = [case for case in CASES if case["law"]["kind"] == kind and _digest(case) != case["sha256"]]
    assert not wrong


# Tensors with parts --------------------------------------------------------------------------------------------------

COMPOSED: list[dict[str, Any]] = json.loads((GOLDEN / PARTS[0]).read_text("utf-8"))
each_composed = pytest.mark.parametrize("case", COMPOSED, ids=lambda case: f"{case['name']} {case['dtype']}")


def _planned(case: dict[str, Any]) -> Plan:
    return ENGINE.plan(read_document(json.dumps({"tensors": case["tensor"]}).encode()))


@each_composed
def test_a_tensor_with_parts_has_golden_laws_and_streams(case: dict[str, Any]) -> None:
    [tensor] = _planned(case).tensors
    assert (tensor.law, tensor.stream_name, list(tensor.region.shape)) == (
        _law(**case["law"]),
        case["name"],
        case["shape"],
    )
    said = [(part["law"], part.get("stream", f"{case['name']}[{part['slice']}]")) for part in case["parts"]]
    assert [(each.law, each.stream_name) for each in tensor.parts] == [(_law(**law), name) for law, name in said]


@each_composed
def test_every_digest_of_a_tensor_with_parts_is_golden(case: dict[str, Any]) -> None:
    plan = _planned(case)
    with closing(ENGINE.open(plan)) as file:
        data = file.read(len(plan.header), plan.nbytes)
    assert (bytes(data[:8]).hex(), sha256(data).hexdigest()) == (case["begins"], case["sha256"])
