"""Recipes: rules, presets and schemes by type of module, in every form of the argument."""

from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from weightwell import Manifest
from weightwell.models.recipes import Recipe


class Rows(nn.Linear):
    """A user's subclass of Linear."""


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Rows(4, 5), nn.Linear(5, 2, bias=False))


def test_without_rules_a_module_is_drawn_as_torch_does() -> None:
    assert Manifest.from_module(network()).preset == "torch"


def test_rules_and_presets_may_be_given_in_every_form() -> None:
    rules = [{"match": "*.bias", "scheme": "zeros"}]
    gpt2 = {"name": "gpt2", "layers": 2}
    forms: list[Any] = [("gpt2", None), (gpt2, None), (rules, None), (rules, "gpt2"), (None, gpt2), ([], "torch")]
    read = [Manifest.from_module(nn.ReLU(), given, preset=preset) for given, preset in forms]
    assert [(each.rules, each.preset) for each in read] == [
        ([], "gpt2"),
        ([], gpt2),
        (rules, None),
        (rules, "gpt2"),
        ([], gpt2),
        ([], "torch"),
    ]


@pytest.mark.parametrize(
    ("rules", "preset", "message"),
    [
        ("gpt2", "torch", "expected one preset"),
        ({"layers": 2}, None, "got the key 'layers'"),
        ({"match": "*", "scheme": "ones"}, None, "Give rules as a list"),
        ({nn.Linear: {"wieght": "ones"}}, None, "Rows has no tensor named 'wieght'"),
        ({nn.Linear: {"std": 0.02}}, None, "a scheme with parameters is written"),
    ],
)
def test_rules_in_no_known_form_are_refused(rules: Any, preset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.from_module(nn.Sequential(Rows(2, 2)), rules, preset=preset)


# Schemes by type -----------------------------------------------------------------------------------------------------


def schemes(model: nn.Module, types: Any) -> dict[str, Any]:
    """The own schemes of a model's tensors, with their parameters."""
    found = {}
    for name, fields in Manifest.from_module(model, types).tensors.items():
        found[name] = {key: value for key, value in fields.items() if key not in {"shape", "module", "dtype"}}
    return {name: own for name, own in found.items() if own}


def test_a_scheme_of_a_type_is_that_of_its_weights() -> None:
    types = {nn.Linear: "xavier_uniform", nn.Conv2d: {"scheme": "kaiming_normal", "mode": "fan_out"}}
    assert schemes(network(), types) == {
        "0.weight": {"scheme": "kaiming_normal", "mode": "fan_out"},
        "2.weight": {"scheme": "xavier_uniform"},
        "3.weight": {"scheme": "xavier_uniform"},
    }


def test_each_tensor_of_a_type_may_have_its_scheme() -> None:
    types = {nn.Linear: {"bias": "zeros", "weight": {"scheme": "normal", "std": 0.02}}}
    assert schemes(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)), types) == {
        "0.weight": {"scheme": "normal", "std": 0.02},
        "0.bias": {"scheme": "zeros"},
        "1.weight": {"scheme": "normal", "std": 0.02},
    }


def test_every_weight_of_a_recurrent_module_is_meant() -> None:
    assert [*schemes(nn.LSTM(2, 3), {nn.LSTM: "orthogonal"})] == ["weight_ih_l0", "weight_hh_l0"]


def test_the_nearest_type_applies_in_any_order() -> None:
    model = nn.Sequential(Rows(2, 2), nn.Linear(2, 2))
    forward: dict[type, Any] = {nn.Linear: "ones", Rows: "eye"}
    backward = dict(reversed(forward.items()))
    assert (
        schemes(model, forward)
        == schemes(model, backward)
        == {
            "0.weight": {"scheme": "eye"},
            "1.weight": {"scheme": "ones"},
        }
    )


@pytest.mark.parametrize(
    ("types", "unused"),
    [
        ({nn.Conv2d: "ones"}, "Conv2d"),
        ({nn.Conv2d: {"anything": "ones"}, nn.Embedding: "ones"}, "Conv2d, Embedding"),
        ({nn.ReLU: "ones"}, "ReLU"),
    ],
)
def test_a_mapping_of_which_no_tensor_takes_anything_is_refused(types: Any, unused: str) -> None:
    message = f"no tensor uses the scheme of {unused}; the types of modules with tensors are BatchNorm1d, Linear"
    with pytest.raises(ValueError, match=message):
        Manifest.from_module(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)), types)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "types", "unused"),
    [
        (network(), {nn.Linear: "ones", nn.Embedding: "ones"}, "Embedding"),
        (nn.Sequential(Rows(2, 2)), {nn.Linear: "ones", Rows: "eye"}, "Linear"),
        (tied(), {nn.Embedding: "normal", nn.Linear: "ones"}, "Linear"),
    ],
    ids=["no such module", "only a subclass", "only an alias"],
)
def test_a_type_whose_scheme_no_tensor_takes_is_named_by_a_warning(model: nn.Module, types: Any, unused: str) -> None:
    with pytest.warns(weightwell.UnusedRuleWarning, match=f"no tensor uses the scheme of {unused};") as caught:
        Manifest.from_module(model, types)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_scheme_for_a_tensor_that_some_modules_lack_is_no_mistake() -> None:
    types = {nn.Linear: {"weight": "eye", "bias": "zeros"}}
    assert [*schemes(nn.Sequential(nn.Linear(2, 2, bias=False)), types)] == ["0.weight"]


class ScaleNorm(nn.Module):
    """A user's norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(("norm", "kind"), [(nn.LayerNorm(3), "LayerNorm"), (ScaleNorm(), "ScaleNorm")])
def test_a_random_scheme_for_any_module_does_not_draw_norms(norm: nn.Module, kind: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), norm)
    with pytest.raises(ValueError, match=rf"1\.weight: normal for nn.Module would draw the weight of a {kind}"):
        Manifest.from_module(model, {nn.Module: "normal"})
    types: dict[type, Any] = {nn.Module: "normal", type(norm): "ones"}
    assert schemes(model, types)["1.weight"] == {"scheme": "ones"}
    assert schemes(model, {nn.Module: "zeros"})["1.weight"] == {"scheme": "zeros"}


def test_a_mapping_of_types_may_have_another_preset_than_torchs() -> None:
    assert Manifest.from_module(network(), {nn.Linear: "ones"}, preset="gpt2").preset == "gpt2"


@pytest.mark.parametrize("scheme", ["xavier_uniform", "glorot_uniform", "zeros"])
def test_a_scheme_in_place_of_a_preset_gets_advice(scheme: str) -> None:
    message = rf"expected the name of a preset, got the scheme '{scheme}': .* \{{torch.nn.Linear: '{scheme}'\}} or "
    with pytest.raises(ValueError, match=message):
        Recipe.of(scheme, None)
