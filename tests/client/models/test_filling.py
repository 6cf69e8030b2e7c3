"""Filling: tensors of a file go into a module, in place if possible. Errors are found before anything is written."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weightwell import Manifest
from weightwell.exceptions import InvalidFile
from weightwell.models.filling import filling_of
from weightwell.safetensors import Entry, read_header
from weightwell.spec import ManifestSpec


class Tables(nn.Module):
    """Buffers that follow from a number, one that is saved and one that is not, and a parameter."""

    mask: Tensor
    angles: Tensor

    def __init__(self, length: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mask", torch.empty(length, dtype=torch.bool))
        self.register_buffer("angles", torch.empty(length), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the buffers."""
        nn.init.normal_(self.weight)
        self.mask.copy_(torch.arange(len(self.mask)) % 2 == 0)
        self.angles.copy_(torch.arange(len(self.angles)) / 2)


class Silent(nn.Module):
    """A module with a buffer that only its constructor computes."""

    secret: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("secret", torch.tensor([3.0, 5.0]), persistent=False)


def network() -> nn.Sequential:
    """A network of many kinds of tensors, the last weight tied to the first."""
    layers = [nn.Embedding(6, 4), nn.LSTM(4, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 3), nn.Linear(4, 6)]
    model = nn.Sequential(*layers)
    model[4].weight = model[0].weight
    return model


def fill(model: nn.Module, manifest: Manifest | None = None, **options: Any) -> dict[str, bytes]:
    """Fill a module with bytes that are not all zero; return those of every tensor of the file."""
    manifest = manifest or Manifest.from_module(model)
    spec, filling = filling_of(model, ManifestSpec.of(manifest.document()), **options)
    head, data = file_of(spec)
    assert spec.check(read_header(head[8:]).entries) == len(data)
    filling.open(head, len(data), None)
    for start in range(0, len(data), 7):
        for window in filling.buffers(start, min(start + 7, len(data))):
            window[:] = data[start : start + len(window)]
            start += len(window)
    assert filling.commit() is model
    return {name: data[entry.start : entry.stop] for name, entry in read_header(head[8:]).entries.items()}


def file_of(spec: ManifestSpec) -> tuple[bytes, bytes]:
    """The head and the data of a file that has the tensors of a spec, in the reverse order."""
    members, offset = {}, 0
    for name, stored in [*spec.stored.items()][::-1]:
        assert stored.dtype is not None
        end = offset + prod(stored.extent) * stored.dtype.itemsize
        members[name] = {"dtype": stored.dtype.code, "shape": stored.extent, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(members).encode()
    return len(header).to_bytes(8, "little") + header, np.random.default_rng(1).bytes(offset)


def held(model: nn.Module) -> dict[str, bytes]:
    """The bytes of the tensors of a module, under all of their names."""
    return {name: bytes_of(tensor) for name, tensor in model.state_dict().items()}


def bytes_of(tensor: Tensor) -> bytes:
    """The elements of a tensor, in the order of its indices."""
    memory: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return memory


def tensors(model: nn.Module) -> Iterator[Tensor]:
    """All parameters and buffers."""
    yield from model.parameters()
    yield from model.buffers()


# What is filled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_of_the_file_is_the_modules(device: str, dtype: torch.dtype) -> None:
    model = network().to(dtype)
    if device == "meta":
        model.to("meta")
        model[4].weight = model[0].weight  # torch unties what it moves
    sent = fill(model, device="cpu")
    assert held(model) == sent | {"4.weight": sent["0.weight"]}
    assert model[4].weight is model[0].weight
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}


def test_parameters_on_the_cpu_keep_their_memory() -> None:
    model = network()
    before = [tensor.data_ptr() for tensor in tensors(model)]
    fill(model)
    assert [tensor.data_ptr() for tensor in tensors(model)] == before


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_layouts_of_memory_are_kept(device: str) -> None:
    model: Any = nn.Conv2d(3, 4, 3, device=device)
    model.to(memory_format=torch.channels_last)
    sent = fill(model, device="cpu")
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert held(model) == sent


def test_transposed_parameters_are_filled_by_their_own_shape() -> None:
    model = nn.ParameterList([torch.zeros(3, 5).t()])
    sent = fill(model)
    assert held(model) == sent
    assert model[0].stride() == (1, 5)


def test_what_was_frozen_stays_frozen_and_attributes_stay() -> None:
    model = nn.Linear(2, 2, device="meta")
    model.weight.requires_grad_(False)
    model.bias.decay = 0.1  # type: ignore[attr-defined]
    fill(model, device="cpu")
    assert (model.weight.requires_grad, model.bias.requires_grad) == (False, True)
    assert model.bias.decay == 0.1  # type: ignore[attr-defined]
    assert isinstance(model.weight, nn.Parameter)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autograd_notices_that_a_parameter_has_changed(layout: torch.memory_format) -> None:
    model: Any = nn.Conv2d(2, 2, 3)
    model.to(memory_format=layout)
    loss = model.weight.square().sum()
    fill(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_row_that_stands_for_padding_is_zero() -> None:
    layers: list[Any] = [nn.Embedding(5, 3, padding_idx=2), nn.EmbeddingBag(5, 3, padding_idx=-1)]
    fill(nn.Sequential(*layers))
    for layer, row in zip(layers, (2, 4), strict=True):
        assert [not line.any() for line in layer.weight.view(torch.uint8)] == [each == row for each in range(5)]


def test_a_manifest_fills_only_its_tensors() -> None:
    model = network()
    before = held(model)
    sent = fill(model, Manifest({"3.weight": {"shape": [2, 4, 3], "scheme": "normal"}}))
    assert held(model) == before | sent


def test_a_buffer_is_filled_where_a_manifest_names_it() -> None:
    model = Tables()
    model.mask = model.mask.double()
    sent = fill(model, Manifest({"mask": {"shape": [4], "scheme": "ones", "dtype": "float64"}}))
    assert bytes_of(model.mask) == sent["mask"]


# Buffers that are not initialized ------------------------------------------------------------------------------------


def test_buffers_that_have_their_values_keep_them() -> None:
    model = Silent()
    fill(model)
    assert model.secret.tolist() == [3, 5]


def test_buffers_on_the_meta_device_are_computed_by_their_module() -> None:
    with torch.device("meta"):
        model = Tables()
    sent = fill(model, device="cpu")
    assert (model.mask.tolist(), model.angles.tolist()) == ([True, False, True, False], [0, 0.5, 1, 1.5])
    assert bytes_of(model.weight) == sent["weight"]
    assert [*model.state_dict()] == ["weight", "mask"]


def test_buffers_on_the_meta_device_may_be_computed_by_reset_buffers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(Silent(), Tables())
    fill(model, device="cpu", reset_buffers=lambda module: [buffer.fill_(1) for buffer in module.buffers()])
    assert [buffer.tolist() for buffer in model.buffers()] == [[1, 1], [True] * 4, [1] * 4]


def test_buffers_without_a_computation_are_named() -> None:
    with torch.device("meta"):
        model = nn.Sequential(Tables(), Silent())
    with pytest.raises(ValueError, match=r"the buffers 1\.secret are computed .* give reset_buffers="):
        fill(model, device="cpu")
    assert all(tensor.is_meta for tensor in tensors(model))


# What does not fit ---------------------------------------------------------------------------------------------------


def mistakes() -> list[Any]:
    """A module, a manifest, and the expected error."""
    linear = nn.Linear(3, 2, bias=False)
    shape = [2, 3]
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    loose = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    square = {"0.weight": {"shape": [3, 3]}}
    expanded = nn.ParameterList([torch.zeros(3, 1).expand(2, 3, 2)])
    sparse = nn.ParameterList([nn.Parameter(torch.zeros(2, 3).to_sparse())])
    return [
        (linear, Manifest({"wieght": {"shape": shape}}), "no tensor named 'wieght'; it has weight"),
        (
            linear,
            Manifest({"weight": {"shape": [3, 2]}}),
            r"has shape \[2, 3\] in the module, but \[3, 2\] in the manifest",
        ),
        (linear, Manifest({"weight": {"shape": shape, "slice": "0:1"}}), r"but \[1, 3\] in the manifest"),
        (linear, Manifest({"weight": {"shape": shape}}, dtype="float16"), r"use module.to\(torch.float16\)"),
        (linear, Manifest({"weight": {"shape": shape, "dtype": "float64"}}), "weight is float32 in the module"),
        (tied, Manifest(square | {"1.weight": {"shape": [3, 3]}}), "1.weight is tied to 0.weight in the module"),
        (loose, Manifest(square | {"1.weight": {"alias": "0.weight"}}), "but not tied to it in the module"),
        (Tables(), Manifest({"angles": {"shape": [4]}}), "no tensor named 'angles'"),
        (expanded, Manifest({"0": {"shape": [2, 3, 2]}}), "0 is an expanded tensor"),
        (sparse, Manifest({"0": {"shape": shape}}), r"0 is a .* \(torch.sparse_coo\); only plain tensors"),
        (
            nn.Linear(3, 2, device="meta"),
            Manifest({"weight": {"shape": shape}}),
            "bias is on the meta device, but not in the",
        ),
    ]


@pytest.mark.parametrize(("model", "manifest", "message"), mistakes())
def test_a_manifest_that_does_not_fit_is_refused(model: nn.Module, manifest: Manifest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill(model, manifest, device="cpu")


@pytest.mark.parametrize("device", [None, "meta"])
def test_a_module_on_the_meta_device_needs_a_device(device: str | None) -> None:
    with pytest.raises(ValueError, match="weight is on the meta device; give its new device: device='cpu'"):
        fill(nn.Linear(2, 2, device="meta"), device=device)


def test_a_file_of_another_dtype_is_refused_by_its_head() -> None:
    """A rule may have a dtype, which is unknown before the server answers."""
    manifest = Manifest.from_module(nn.Linear(2, 2, bias=False), [{"match": "*", "scheme": "ones", "dtype": "float16"}])
    spec, _ = filling_of(nn.Linear(2, 2, bias=False), ManifestSpec.of(manifest.document()))
    with pytest.raises(InvalidFile, match=r"weight: expected float32 of shape .* got"):
        spec.check({"weight": Entry("F16", (2, 2), 0, 8)})


def test_starting_over_takes_no_more_memory() -> None:
    model = nn.Linear(2, 2, device="meta")
    spec, filling = filling_of(model, ManifestSpec.of(Manifest.from_module(model).document()), device="cpu")
    head, data = file_of(spec)
    addresses = []
    for _ in range(2):
        filling.open(head, len(data), None)
        addresses.append([tensor.data_ptr() for tensor in filling._memory.values()])
    filling.commit()
    assert addresses == [[tensor.data_ptr() for tensor in model.parameters()]] * 2
