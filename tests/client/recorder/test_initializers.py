"""Initializers of models that exist are found, and run on a twin."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations

import weightwell
from benchmarks.architectures import model_type, small_config, without_warnings
from weightwell import Manifest
from weightwell.models.recorded import has_own_code

NORMAL = {"scheme": "normal", "mean": 0.0, "std": 0.02}
ONES, ZEROS = {"scheme": "ones"}, {"scheme": "zeros"}


def schemes(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of each tensor, without its shape."""
    tensors = manifest.document()["tensors"].items()
    return {name: {k: v for k, v in each.items() if k not in {"shape", "module"}} for name, each in tensors}


class Scale(nn.Module):
    """A module with a method that resets it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale."""
        nn.init.normal_(self.scale, std=0.02)


class Applied(nn.Module):
    """A model in the manner of nanoGPT, with a function for each of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.LayerNorm(3)])
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


class Whole(Applied):
    """A model with a method that initializes all of it."""

    def init_weights(self) -> None:
        """Set everything to one."""
        for parameter in self.parameters():
            nn.init.ones_(parameter)


def test_a_module_of_ones_own_is_reset_by_its_method() -> None:
    assert schemes(Manifest.from_module(Scale())) == {"scale": NORMAL}


def test_a_function_for_each_module_is_applied() -> None:
    names = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
    expected = dict(zip(names, (NORMAL, ZEROS, ONES, ZEROS), strict=True))
    assert schemes(Manifest.from_module(Applied())) == expected
    assert schemes(Manifest.of(Applied)) == expected


def test_a_method_that_initializes_all_of_a_model_comes_first() -> None:
    assert set(map(str, schemes(Manifest.from_module(Whole())).values())) == {str(ONES)}


def test_the_user_names_a_method_or_a_function() -> None:
    assert set(map(str, schemes(Manifest.of(Whole, initialize="init_weights")).values())) == {str(ONES)}

    def fill(module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            nn.init.constant_(parameter, 0.5)

    half = {"scheme": "constant", "val": 0.5}
    assert set(map(str, schemes(Manifest.from_module(nn.Linear(2, 3), initialize=fill)).values())) == {str(half)}


def test_the_initializers_of_transformers_run_and_the_model_stays() -> None:
    config = small_config("llama")
    with without_warnings():
        model = model_type(config)(config)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        notes = [getattr(module, "_is_hf_initialized", None) for module in model.modules()]
        assert schemes(Manifest.from_module(model)) == schemes(Manifest.of(model_type(config), config))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [getattr(module, "_is_hf_initialized", None) for module in model.modules()] == notes


def test_buffers_are_what_the_models_code_computes(door: str) -> None:
    """Rotary frequencies are no part of the state dict, and have no values on the meta device."""
    config = small_config("llama")
    with without_warnings(), weightwell.Client(door) as client:
        expected = dict(model_type(config)(config).named_buffers())
        with torch.device("meta"):
            model = model_type(config)(config)
        model = client.init_module_(model, seed=1, device="cpu")
    assert {name: each.tolist() for name, each in model.named_buffers()} == {
        name: each.tolist() for name, each in expected.items()
    }


def test_what_a_constructor_alone_wrote_is_kept_if_it_is_constant_and_else_named() -> None:
    class Constructed(Scale):
        def __init__(self, value: torch.Tensor) -> None:
            super().__init__()
            self.gate = nn.Parameter(value)

    constant = Manifest.from_module(Constructed(torch.full((4,), 0.1)))
    assert schemes(constant)["gate"] == {"scheme": "constant", "val": pytest.approx(0.1)}
    for value in (torch.arange(4.0), torch.ones(4, device="meta")):
        with pytest.raises(ValueError, match=r"gate: no initializer writes it, .* use Manifest\.of or weightwell\.rec"):
            Manifest.from_module(Constructed(value))


def test_models_of_torchs_own_modules_are_asked_for_as_before() -> None:
    """Their laws are those of the preset torch, which asks for the tensors by the types of their modules."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"norm": nn.BatchNorm1d(4)}), nn.ParameterList([]))
    assert not has_own_code(model)
    assert Manifest.from_module(model).preset == "torch"
    assert has_own_code(nn.Sequential(Scale()))
    assert Manifest.from_module(nn.Sequential(Scale())).preset is None


def test_a_parametrized_layer_in_a_recorded_model_has_the_law_of_torch() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), Scale())
    tensors = Manifest.from_module(model).document()["tensors"]
    assert tensors["0.weight"] == {"shape": [4, 3], "module": "Linear", "scheme": "reset_parameters"}
    assert tensors["1.scale"] == {"shape": [3], "module": "Scale", **NORMAL}
    built = schemes(Manifest.of(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), Scale())))
    assert built["0.weight"]["scheme"] == "uniform"


LAYERS: list[tuple[type[nn.Module], tuple[Any, ...]]] = [
    (nn.Linear, (5, 7)),
    (nn.Bilinear, (3, 4, 5)),
    (nn.Conv2d, (4, 6, 3)),
    (nn.ConvTranspose1d, (4, 6, 3)),
    (nn.LSTM, (3, 4, 2)),
    (nn.GRUCell, (3, 4)),
    (nn.MultiheadAttention, (8, 2)),
    (nn.BatchNorm2d, (4,)),
    (nn.Embedding, (6, 4)),
    (nn.PReLU, ()),
]


@pytest.mark.parametrize(("layer", "args"), LAYERS)
def test_recorded_layers_of_torch_are_drawn_as_the_preset_torch_draws_them(
    layer: type[nn.Module], args: tuple[Any, ...], door: str
) -> None:
    recorded, preset = Manifest.of(layer, *args, seed=4), Manifest.from_module(layer(*args), seed=4)
    with weightwell.Client(door) as client, weightwell.Client(door) as another:
        one, two = client.init_state_dict(recorded), another.init_state_dict(preset)
    assert {*two} >= {*one}
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_padding_row_stays_zero_if_a_head_is_tied_to_its_embedding() -> None:
    """The head is initialized before it is tied, so it must not overwrite the row."""
    config = transformers.BertConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=20, pad_token_id=3
    )
    rows = [{"slice": "3:4,0:8", "scheme": "zeros"}]
    with torch.device("meta"):
        model = transformers.BertForMaskedLM(config)
    for manifest in (Manifest.of(transformers.BertForMaskedLM, config), Manifest.from_module(model)):
        assert manifest.tensors["bert.embeddings.word_embeddings.weight"]["parts"] == rows
        assert manifest.tensors["cls.predictions.decoder.weight"] == {"alias": "bert.embeddings.word_embeddings.weight"}
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
