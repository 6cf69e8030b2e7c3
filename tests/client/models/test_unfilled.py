"""A warning names the weights that are not drawn. If nothing can be drawn, it is an error."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from weightwell import Manifest
from weightwell.models.filling import filling_of
from weightwell.spec import ManifestSpec

# Said by torch of all of its quantization, and of the memory of what it quantizes.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:TypedStorage is deprecated:UserWarning",
    "ignore:Please use quant_min and quant_max:UserWarning",
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


class Int8Linear(nn.Module):
    """A layer whose weight is a parameter of bytes, as in bitsandbytes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.uint8), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(4))


class GroupedLinear(nn.Module):
    """A layer with its weight in buffers, as in GPTQ, and other buffers that look similar."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 3, dtype=torch.int32))
        self.register_buffer("mask", torch.zeros(4, 3, dtype=torch.bool))
        self.register_buffer("positions", torch.zeros(4, 3, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(4, dtype=torch.int32))
        self.register_buffer("scratch", torch.zeros(4, 3, dtype=torch.int32), persistent=False)


class WithState(nn.Linear):
    """A layer that saves more than tensors."""

    def get_extra_state(self) -> Any:
        """Return what is saved besides."""
        return torch.ones(3)

    def set_extra_state(self, state: Any) -> None:
        """Take nothing."""


def quantized(model: nn.Module) -> nn.Module:
    quantization: Any = torch.ao.quantization
    made: nn.Module = quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM}, dtype=torch.qint8)
    return made


def converted(model: nn.Module) -> nn.Module:
    """Return a model that has been quantized after it has seen data."""
    quantization: Any = torch.ao.quantization
    model.eval().qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(nn.Sequential(quantization.QuantStub(), model))
    prepared(torch.zeros(1, 3, 3, 3))
    made: nn.Module = quantization.convert(prepared)
    return made


def test_a_quantized_model_is_refused_with_the_names_of_its_weights(client: weightwell.Client) -> None:
    model = quantized(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LSTM(4, 4)))
    message = r"no tensor that can be drawn: .* 0\._packed_params\._packed_params, 2\._all_weight_values\.0\.param; "
    with pytest.raises(ValueError, match=message + "fill the module before it is quantized"):
        client.init_module_(model, seed=1)


def test_a_warning_names_the_quantized_weights_of_a_model(client: weightwell.Client) -> None:
    model: Any = quantized(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))
    nn.init.zeros_(model[1].weight)
    with pytest.warns(
        weightwell.UnfilledWarning, match=r"weights are not drawn: enc\.0\._packed_params\._packed_params\. "
    ):
        client.init_module_(model, seed=1, prefix="enc")
    assert torch.equal(model[1].weight, torch.ones(4))


def test_convolutions_that_are_quantized_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights are not drawn: 1\.0\.weight, 1\.0\.bias;"):
        Manifest.from_module(converted(nn.Sequential(nn.Conv2d(3, 4, 3))))


def test_parameters_of_integers_are_named_and_the_others_drawn(client: weightwell.Client) -> None:
    model: Any = nn.Sequential(Int8Linear(), nn.LayerNorm(4))
    rules = [{"match": "*.bias", "scheme": "ones"}]
    with pytest.warns(weightwell.UnfilledWarning, match=r"not drawn: 0\.weight\. To draw them") as caught:
        client.init_module_(model, rules, preset="torch")
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(model[0].bias, torch.ones(4))
    assert not model[0].weight.any()


def test_buffers_that_look_like_quantized_weights_are_named() -> None:
    with pytest.raises(ValueError, match=r"not drawn: qweight; fill"):
        Manifest.from_module(GroupedLinear())


def test_many_names_are_counted() -> None:
    model = nn.Sequential(*[GroupedLinear() for _ in range(7)])
    with pytest.raises(ValueError, match=r"0\.qweight, .*, 4\.qweight and 2 more; fill"):
        Manifest.from_module(model)


def test_a_filter_silences_the_warning(client: weightwell.Client, recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("ignore", weightwell.UnfilledWarning)
    client.init_module_(Int8Linear(), [{"match": "bias", "scheme": "zeros"}])
    assert not recwarn.list


@pytest.mark.parametrize("model", [WithState(3, 4), nn.Sequential(nn.ReLU()), nn.LSTM(3, 4)])
def test_of_a_model_without_quantized_weights_nothing_is_said(model: nn.Module) -> None:
    assert [*Manifest.from_module(model).tensors] == [name for name, _ in model.named_parameters()]


def test_a_tensor_of_a_type_of_its_own_is_refused_with_its_name() -> None:
    class Packed(torch.Tensor):
        """A tensor that has others inside of it, as torchao makes them."""

        def __tensor_flatten__(self) -> Any:
            """Say what is inside."""

    model = nn.Linear(3, 4, bias=False)
    model.weight = nn.Parameter(torch.zeros(4, 3).as_subclass(Packed))
    spec = ManifestSpec.of(Manifest.from_module(model).document())
    with pytest.raises(
        ValueError, match=r"weight is a Packed .*; only plain tensors are filled: .* before it is quant"
    ):
        filling_of(model, spec)
