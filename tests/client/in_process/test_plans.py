"""Plans of single tensors are kept: those that differ in name and seed alone are planned once."""

from collections.abc import Iterator
from typing import Any

import pytest

from weightwell.in_process import plans
from weightwell.in_process.address import Address
from weightwell.in_process.engines import Engines
from weightwell.in_process.plans import Plans
from weightwell.in_process.specs import spec_of
from weightwell.request import asking, asking_for_manifest
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.plan import Plan

TENSOR: dict[str, Any] = {"shape": (4, 3), "scheme": "kaiming_normal", "seed": 0, "dtype": "float32"}


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines(Address("cpu", 1))
    yield engines
    engines.close()


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every spec that the engine plans."""
    specs: list[object] = []
    plan = Engine.plan

    def counted(self: Engine, spec: Any, **limits: Any) -> Plan:
        specs.append(spec)
        return plan(self, spec, **limits)

    monkeypatch.setattr(Engine, "plan", counted)
    return specs


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_another_name_and_seed_have_the_plan_of_their_own(
    engines: Engines, planned: list[object], generator: str
) -> None:
    kept = Plans(engines)
    others: list[dict[str, Any]] = [
        {},
        {"name": "a"},
        {"seed": 2**64 - 1},
        {"name": "é", "seed": 2**60},
        {"name": "weight", "seed": 7},
    ]
    for other in others:
        request = asking("init", **{**TENSOR, **other, "generator": generator})
        plan = kept.of(request)
        expected = engines.of().plan(spec_of(request))
        assert plan == expected
        assert (plan.header, plan.etag, plan.nbytes) == (expected.header, expected.etag, expected.nbytes)
    assert len(planned) == 1 + len(others)


@pytest.mark.parametrize(
    "other",
    [
        {"shape": (3, 4)},
        {"dtype": "float64"},
        {"scheme": "kaiming_uniform"},
        {"a": 0.5},
        {"mode": "fan_out"},
        {"slice": "0:2,0:3"},
        {"stream": "b"},
        {"generator": "torch"},
    ],
)
def test_any_other_field_makes_another_plan(engines: Engines, planned: list[object], other: dict[str, Any]) -> None:
    kept = Plans(engines)
    kept.of(asking("init", **TENSOR))
    plan = kept.of(
        asking("init", **TENSOR, **other) if other.keys().isdisjoint(TENSOR) else asking("init", **{**TENSOR, **other})
    )
    assert len(planned) == 2
    assert plan.spec == planned[1]


def test_equal_numbers_of_other_types_are_not_confused(engines: Engines) -> None:
    kept = Plans(engines)
    constant = {**TENSOR, "scheme": "constant"}
    zero = kept.of(asking("init", **constant, val=0.0))
    minus = kept.of(asking("init", **constant, val=-0.0))
    assert zero.header != minus.header
    kept.of(asking("init", **constant, val=1))
    with pytest.raises(InvalidSpec, match="val"):
        kept.of(asking("init", **constant, val=True))


@pytest.mark.parametrize(
    ("wrong", "field"), [({"seed": -1}, "seed"), ({"seed": 2**64}, "seed"), ({"name": ""}, "name")]
)
def test_a_kept_plan_accepts_no_wrong_name_or_seed(engines: Engines, wrong: dict[str, Any], field: str) -> None:
    kept = Plans(engines)
    kept.of(asking("init", **TENSOR))
    with pytest.raises(InvalidSpec) as caught:
        kept.of(asking("init", **{**TENSOR, **wrong}))
    assert caught.value.field == field


def test_the_number_and_the_size_of_kept_plans_are_bounded(
    engines: Engines, planned: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_KEPT", 2)
    kept = Plans(engines)
    for _ in range(2):
        for size in (1, 2, 3):
            kept.of(asking("init", **{**TENSOR, "shape": (size,), "scheme": "normal"}))
    assert len(planned) == 6
    values = asking("init", shape=(500,), scheme="values", values=[1.0] * 500)
    kept.of(values)
    kept.of(values)
    assert len(planned) == 8


def test_manifests_are_planned_each_time(engines: Engines, planned: list[object]) -> None:
    kept = Plans(engines)
    request = asking_for_manifest("init", {"tensors": {"w": {"shape": [2], "scheme": "normal"}}})
    assert kept.of(request) == kept.of(request)
    assert len(planned) == 2
