"""The manifest of a module has the tensors of its state dict."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from weightwell import Manifest


class Scale(nn.Module):
    """A module that torch does not know, with a parameter and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool))
        self.register_buffer("angles", torch.ones(4), persistent=False)


class Rows(nn.Linear):
    """A user's subclass of Linear."""


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Rows(4, 5), nn.Linear(5, 2, bias=False))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_manifest_has_the_names_and_shapes_of_the_state_dict_in_its_order(device: str) -> None:
    with torch.device(device):
        model = network()
    asked = [(name, each["shape"]) for name, each in Manifest.from_module(model).tensors.items()]
    assert asked == [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]


def test_a_tensor_knows_the_type_in_torch_that_its_module_is_of() -> None:
    tensors = Manifest.from_module(nn.Sequential(Rows(2, 3), Scale())).tensors
    assert [each["module"] for each in tensors.values()] == ["Linear", "Linear", "Scale", "Scale"]


def test_tied_parameters_are_requested_once() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    assert Manifest.from_module(model).tensors["1.weight"] == {"alias": "0.weight"}


def test_parameters_that_share_all_of_their_memory_are_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight.data = model[0].weight.data
    assert Manifest.from_module(model).tensors["1.weight"] == {"alias": "0.weight"}


def test_a_module_that_is_used_twice_is_requested_once() -> None:
    layer = nn.Linear(2, 2, bias=False)
    assert Manifest.from_module(nn.Sequential(layer, layer)).tensors["1.weight"] == {"alias": "0.weight"}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_without_elements_are_not_tied(device: str) -> None:
    model = nn.ParameterList(torch.empty(0, device=device) for _ in range(2))
    assert all("alias" not in each for each in Manifest.from_module(model).tensors.values())


def test_the_dtype_of_most_tensors_is_said_once() -> None:
    model: Any = network().to(torch.bfloat16)
    model[3].float()
    manifest = Manifest.from_module(model)
    own = {name: each["dtype"] for name, each in manifest.tensors.items() if "dtype" in each}
    assert manifest.dtype == "bfloat16"
    assert own == {"1.num_batches_tracked": "int64", "3.weight": "float32"}


def test_another_dtype_is_for_floating_point_tensors_only() -> None:
    manifest = Manifest.from_module(network().double(), dtype=torch.float16)
    own = {name: each["dtype"] for name, each in manifest.tensors.items() if "dtype" in each}
    assert (manifest.dtype, own) == ("float16", {"1.num_batches_tracked": "int64"})


def test_buffers_from_constructors_are_not_requested() -> None:
    assert [*Manifest.from_module(Scale()).tensors] == ["scale", "matrix"]


def test_parameters_in_lists_and_dictionaries_have_the_names_of_their_places() -> None:
    model = nn.ModuleDict({"list": nn.ParameterList([torch.zeros(2)]), "dict": nn.ParameterDict({"a": torch.zeros(3)})})
    tensors = Manifest.from_module(model).tensors
    assert {name: (each["shape"], each["module"]) for name, each in tensors.items()} == {
        "list.0": ([2], "ParameterList"),
        "dict.a": ([3], "ParameterDict"),
    }


def test_a_parametrized_module_of_ones_own_is_of_the_same_type() -> None:
    tensors = Manifest.from_module(parametrizations.weight_norm(Scale(), "matrix")).tensors
    assert [(name, each["module"]) for name, each in tensors.items()] == [("matrix", "Scale"), ("scale", "Scale")]


def test_a_parameter_with_an_unsupported_dtype_is_named() -> None:
    with pytest.raises(ValueError, match=r"0 cannot be drawn: dtype must be one of .* got torch.complex64"):
        Manifest.from_module(nn.ParameterList([torch.zeros(2, dtype=torch.complex64)]))


def test_a_parameter_without_a_shape_is_named() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(
        ValueError, match=r"0\.weight has no shape yet, because LazyLinear takes it from its first input: run a forward"
    ):
        Manifest.from_module(model)
    model(torch.zeros(2, 4))
    tensors = Manifest.from_module(model).tensors
    assert tensors["0.weight"] == {"shape": [3, 4], "module": "Linear"}
    assert tensors["1.running_mean"] == {"shape": [3], "module": "BatchNorm1d"}


def test_a_buffer_without_a_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"running_mean has no shape yet, because LazyBatchNorm1d takes"):
        Manifest.from_module(nn.LazyBatchNorm1d(affine=False))
