from collections.abc import Iterator
from itertools import pairwise
from math import sqrt
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.modules import MODULES, own_fields
from weightwell_engine.schemes import SCHEMES

# Modules of torch.nn that only hold others: what they do beyond those is said in docs/presets.md.
HOLDERS = {"AdaptiveLogSoftmaxWithLoss", "Transformer"}
BASES = {"RNNBase", "RNNCellBase"}

# For every row of the table, modules that have all the tensors that such a module can have.
EXAMPLES: dict[str, tuple[dict[str, Any], ...]] = {
    "Linear": ({"in_features": 5, "out_features": 7}, {"in_features": 1, "out_features": 1}),
    "Bilinear": ({"in1_features": 3, "in2_features": 4, "out_features": 5},),
    "Conv1d": ({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2},),
    "Conv2d": ({"in_channels": 3, "out_channels": 8, "kernel_size": (3, 5)},),
    "Conv3d": ({"in_channels": 2, "out_channels": 3, "kernel_size": 2},),
    "ConvTranspose1d": ({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2},),
    "ConvTranspose2d": ({"in_channels": 3, "out_channels": 8, "kernel_size": (3, 5)},),
    "ConvTranspose3d": ({"in_channels": 2, "out_channels": 3, "kernel_size": 2},),
    "Embedding": ({"num_embeddings": 9, "embedding_dim": 5},),
    "EmbeddingBag": ({"num_embeddings": 9, "embedding_dim": 5},),
    "LayerNorm": ({"normalized_shape": (3, 4)},),
    "GroupNorm": ({"num_groups": 2, "num_channels": 6},),
    "RMSNorm": ({"normalized_shape": 5},),
    **{f"BatchNorm{n}d": ({"num_features": 5},) for n in (1, 2, 3)},
    "SyncBatchNorm": ({"num_features": 5},),
    **{f"InstanceNorm{n}d": ({"num_features": 5, "affine": True, "track_running_stats": True},) for n in (1, 2, 3)},
    "RNN": ({"input_size": 3, "hidden_size": 5, "num_layers": 2, "bidirectional": True},),
    "LSTM": (
        {"input_size": 3, "hidden_size": 5, "num_layers": 2, "bidirectional": True},
        {"input_size": 3, "hidden_size": 5, "proj_size": 2, "num_layers": 2, "bidirectional": True},
    ),
    "GRU": ({"input_size": 3, "hidden_size": 5, "num_layers": 11},),
    **{cell: ({"input_size": 3, "hidden_size": 5},) for cell in ("RNNCell", "LSTMCell", "GRUCell")},
    "MultiheadAttention": (
        {"embed_dim": 8, "num_heads": 2, "add_bias_kv": True},
        {"embed_dim": 8, "num_heads": 2, "kdim": 5, "vdim": 3},
    ),
    "NonDynamicallyQuantizableLinear": ({"in_features": 5, "out_features": 7},),
    "PReLU": ({"num_parameters": 3},),
}
CASES = [pytest.param(name, sizes, id=f"{name}-{i}") for name in EXAMPLES for i, sizes in enumerate(EXAMPLES[name])]

Tensors = dict[str, torch.Tensor]


def build(name: str, sizes: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    owner = nn.modules.linear if name == "NonDynamicallyQuantizableLinear" else nn
    module: nn.Module = getattr(owner, name)(**sizes, dtype=dtype)
    return module


def reset(module: nn.Module, seed: int) -> Tensors:
    """Let a module reset its own tensors from torch's global generator; return them in the order of drawing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))()  # type: ignore[misc]
    return {name: tensor.detach() for name, tensor in module.state_dict().items() if "." not in name}


def described(name: str, tensors: Tensors) -> dict[str, dict[str, Any]]:
    """Return the specs of a module's tensors."""
    shapes = {leaf: tuple(tensor.shape) for leaf, tensor in tensors.items()}
    return {leaf: {"shape": shape, **own_fields(name, leaf, shapes)} for leaf, shape in shapes.items()}


def classes() -> Iterator[type[nn.Module]]:
    """Yield the classes of torch.nn that reset tensors of their own."""
    for each in vars(nn).values():
        resets = hasattr(each, "reset_parameters") or hasattr(each, "_reset_parameters")
        if resets and isinstance(each, type) and issubclass(each, nn.Module):
            yield each


def test_every_class_of_torch_that_resets_tensors_is_in_the_table() -> None:
    resetting = {each.__name__ for each in classes()}
    assert resetting - BASES - HOLDERS | {"NonDynamicallyQuantizableLinear"} == set(MODULES)


def test_a_lazy_module_is_initialized_like_the_module_that_it_becomes() -> None:
    lazy = [each for each in classes() if issubclass(each, nn.modules.lazy.LazyModuleMixin)]
    assert len(lazy) == 13
    for each in lazy:
        assert each.cls_to_become is not None
        assert MODULES[each.__name__] is MODULES[each.cls_to_become.__name__]


def test_every_tensor_in_the_table_is_in_an_example() -> None:
    for name, leaves in MODULES.items():
        built = {leaf for sizes in EXAMPLES.get(name, ()) for leaf in build(name, sizes).state_dict()}
        assert name.startswith("Lazy") or set(leaves) <= built


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_the_tensors_of_a_module_have_the_bits_that_torch_resets_them_to(
    http: httpx.Client, name: str, sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    expected = reset(build(name, sizes, dtype), seed=3)
    tensors = {f"part.{leaf}": {"shape": list(tensor.shape), "module": name} for leaf, tensor in expected.items()}
    common = {"generator": "torch", "seed": 3, "dtype": str(dtype).removeprefix("torch.")}
    response = http.post("/init", json={**common, "preset": "torch", "tensors": tensors})
    assert response.status_code == 200, response.text
    got = safetensors.torch.load(response.content)
    if name == "NonDynamicallyQuantizableLinear":
        expected["bias"].zero_()  # as the MultiheadAttention does that it belongs to
    for leaf, tensor in expected.items():
        assert got[f"part.{leaf}"].dtype == tensor.dtype
        assert torch.equal(got[f"part.{leaf}"], tensor), leaf


def test_the_output_bias_of_an_attention_is_zero() -> None:
    attention = nn.MultiheadAttention(8, 2)
    assert type(attention.out_proj).__name__ == "NonDynamicallyQuantizableLinear"
    assert not attention.out_proj.bias.any()
    assert own_fields("NonDynamicallyQuantizableLinear", "bias", {"bias": (8,)}) == {"scheme": "zeros"}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "Batch" in name or "Instance" in name])
def test_a_counter_of_batches_is_an_integer_zero(name: str) -> None:
    module = build(name, EXAMPLES[name][0])
    counter = reset(module, seed=0)["num_batches_tracked"]
    assert own_fields(name, "num_batches_tracked", {"num_batches_tracked": ()}) == {"scheme": "zeros", "dtype": "int64"}
    assert (counter.dtype, counter.item()) == (torch.int64, 0)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_what_is_said_of_a_tensor_is_a_scheme_and_parameters_that_it_has(name: str, sizes: dict[str, Any]) -> None:
    for fields in described(name, reset(build(name, sizes), seed=0)).values():
        known = {parameter.name for parameter in SCHEMES[fields["scheme"]].parameters}
        assert set(fields) - {"shape", "scheme", "dtype"} <= known


@given(st.integers(1, 2**40), st.integers(1, 2**20), st.lists(st.integers(1, 64), max_size=3))
def test_the_bias_has_the_bound_of_the_fan_in(rows: int, columns: int, kernel: list[int]) -> None:
    fields = own_fields("Conv2d", "bias", {"weight": (rows, columns, *kernel), "bias": (rows,)})
    fan_in = columns
    for size in kernel:
        fan_in *= size
    assert fields == {"scheme": "uniform", "a": -1 / sqrt(fan_in), "b": 1 / sqrt(fan_in)}


def test_a_layer_without_inputs_has_a_bias_of_zero() -> None:
    assert own_fields("Linear", "bias", {"weight": (3, 0), "bias": (3,)}) == {"scheme": "uniform", "a": 0.0, "b": 0.0}
    with pytest.warns(UserWarning, match="zero-element"):
        assert not nn.Linear(0, 3).bias.any()


def test_the_bound_of_a_recurrent_tensor_needs_no_other_tensor() -> None:
    lstm = nn.LSTM(3, 16, num_layers=2, bidirectional=True, proj_size=4)
    for leaf, tensor in lstm.named_parameters():
        assert own_fields("LSTM", leaf, {leaf: tuple(tensor.shape)})["b"] == 0.25


def test_layers_of_any_number_and_direction_are_known() -> None:
    shapes = {f"weight_ih_l{n}{end}": (12, 3) for n in (0, 7, 100) for end in ("", "_reverse")}
    laws = [own_fields("GRU", leaf, shapes) for leaf in shapes]
    assert all(one == other for one, other in pairwise(laws))


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "ConvTranspose1d", "LazyLinear", "Bilinear"])
def test_the_error_for_a_bias_without_its_weight_has_advice(name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"depends on the shape of the module's weight: add the weight") as caught:
        own_fields(name, "bias", {"bias": (5,)})
    assert caught.value.field == "scheme"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("linear", "Linear"), ("torch.nn.LayerNorm", "LayerNorm"), ("LSTMcell", "LSTMCell"), ("MyBlock", "give a scheme")],
)
def test_an_unknown_module_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InvalidSpec, match=hint) as caught:
        own_fields(name, "weight", {"weight": (3, 3)})
    assert (caught.value.field, caught.value.got) == ("module", name)


@pytest.mark.parametrize(
    ("name", "leaf"), [("Linear", "scale"), ("RMSNorm", "bias"), ("RNN", "weight_hr_l0"), ("Linear", "weight_l0")]
)
def test_a_tensor_that_a_module_does_not_have_is_refused_with_those_that_it_has(name: str, leaf: str) -> None:
    with pytest.raises(InvalidSpec, match=f"it has {', '.join(MODULES[name])}"):
        own_fields(name, leaf, {leaf: (3, 3)})


@pytest.mark.parametrize(
    ("name", "leaf", "shapes"),
    [
        ("LSTM", "bias_ih_l0", {"bias_ih_l0": ()}),
        ("LSTM", "weight_hr_l0", {"weight_hr_l0": (5,)}),
        ("Linear", "bias", {"weight": (5,), "bias": (5,)}),
        ("Bilinear", "weight", {"weight": (5,)}),
    ],
)
def test_a_shape_that_the_module_cannot_have_is_refused(name: str, leaf: str, shapes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        own_fields(name, leaf, shapes)
    assert caught.value.field == "shape"
