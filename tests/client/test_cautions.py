"""A warning names the rules that no tensor uses, in every method."""

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import nn

import weightwell
from tests.client.conftest import Client
from weightwell import Manifest, UnusedRuleWarning
from weightwell.cautions import caution_unused

TYPO = {"match": "*.wieght", "scheme": "normal"}
RULES = [{"match": "*.bias", "scheme": "zeros"}, TYPO, {"match": "*", "scheme": "ones"}]


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, door: str) -> Iterator[Any]:
    with Client(request.param, door) as client:
        yield client


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2))


def posted(rules: list[dict[str, Any]]) -> Manifest:
    """A manifest that does not fit into a URL."""
    tensors = {f"{'x' * 100}{i * i * 7919}.{name}": {"shape": [2]} for i in range(2000) for name in ("weight", "bias")}
    return Manifest(tensors, rules=rules)


VERBS: dict[str, Callable[[Any, list[dict[str, Any]]], object]] = {
    "init_module_": lambda client, rules: client.init_module_(model(), rules),
    "init_state_dict": lambda client, rules: client.init_state_dict(Manifest.from_module(model(), rules)),
    "save": lambda client, rules: client.save(io.BytesIO(), Manifest.from_module(model(), rules)),
    "a POST": lambda client, rules: client.init_state_dict(posted(rules)),
}


@pytest.mark.parametrize("draw", VERBS.values(), ids=VERBS)
def test_a_rule_that_no_tensor_takes_is_named(client: Any, draw: Callable[[Any, Any], object]) -> None:
    with pytest.warns(
        UnusedRuleWarning, match=r'^no tensor uses the rule {"match": "\*\.wieght", .*}: it matches no name'
    ):
        draw(client, RULES)


def test_a_warning_is_about_the_line_that_called_a_client(door: str) -> None:
    with weightwell.Client(door) as client, pytest.warns(UnusedRuleWarning) as caught:
        client.init_module_(model(), RULES)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_is_about_the_line_that_awaited_a_client(door: str) -> None:
    async def fill() -> None:
        async with weightwell.AsyncClient(door) as client:
            await client.init_module_(model(), RULES)

    with pytest.warns(UnusedRuleWarning) as caught:
        asyncio.run(fill())
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("draw", VERBS.values(), ids=VERBS)
def test_of_rules_that_are_all_taken_nothing_is_said(
    client: Any, draw: Callable[[Any, Any], object], recwarn: pytest.WarningsRecorder
) -> None:
    draw(client, [RULES[0], RULES[2]])
    assert not recwarn.list


def test_a_rule_that_comes_too_late_is_named(client: Any) -> None:
    with pytest.warns(UnusedRuleWarning, match=r'no tensor uses the rule {"match": "\*\.weight", "scheme": "zeros"}'):
        client.init_module_(model(), [RULES[2], {"match": "*.weight", "scheme": "zeros"}])


def test_several_rules_are_named_in_one_warning() -> None:
    with pytest.warns(UnusedRuleWarning, match=r'"\*\.bias", .* or {"match": "\*", ') as caught:
        caution_unused(RULES, "rules.0, rules.2")
    assert len(caught) == 1


@pytest.mark.parametrize("listed", ["", "rules.7", "nonsense"])
def test_what_a_server_lists_that_is_no_rule_is_passed_over(listed: str, recwarn: pytest.WarningsRecorder) -> None:
    caution_unused(RULES, listed)
    assert not recwarn.list
