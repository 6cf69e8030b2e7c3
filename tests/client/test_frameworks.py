"""Tensors are writable, aligned views of the received memory, in the requested framework."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from weightwell.dtypes import DTYPES, DType
from weightwell.exceptions import MissingFramework
from weightwell.frameworks import VIEWERS, viewer
from weightwell.memory import allocate

ROWS = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@ROWS
@pytest.mark.parametrize("framework", VIEWERS)
def test_a_tensor_is_a_writable_view_of_its_memory(framework: str, dtype: DType) -> None:
    if dtype.packed > 1:
        pytest.skip("torch writes no element of it, and numpy has a copy")
    memory = allocate(6 * dtype.itemsize)
    tensor = viewer(framework, dtype)(memory, (2, 3))
    tensor[1, 2] = 1
    one = torch.full((1,), 1, dtype=getattr(torch, dtype.name)).view(torch.uint8).numpy().tobytes()
    assert bytes(memory) == bytes(5 * dtype.itemsize) + one


@ROWS
def test_torch_and_numpy_see_the_same_numbers(dtype: DType) -> None:
    if dtype.packed > 1:
        pytest.skip("torch computes nothing with it")
    memory = bytearray(range(0, 64, 64 // (8 * dtype.itemsize)))[: 8 * dtype.itemsize]
    in_torch, in_numpy = (viewer(name, dtype)(memory, (8,)) for name in VIEWERS)
    assert in_torch.dtype is getattr(torch, dtype.name)
    assert np.array_equal(in_torch.double().numpy(), in_numpy.astype(np.float64))


def test_a_packed_tensor_is_bytes_in_torch_and_elements_in_numpy() -> None:
    memory, dtype = bytearray(b"\x21\x43\x65\x87\xf9\xed"), DTYPES["float4_e2m1fn_x2"]
    in_torch, in_numpy = (viewer(name, dtype)(memory, (2, 6)) for name in ("torch", "numpy"))
    assert (in_torch.dtype, tuple(in_torch.shape)) == (torch.float4_e2m1fn_x2, (2, 3))
    assert in_torch.view(torch.uint8).flatten().tolist() == list(memory)
    assert in_numpy.astype(float).tolist() == [[0.5, 1, 1.5, 2, 3, 4], [6, -0.0, -0.5, -6, -3, -4]]


@pytest.mark.parametrize("framework", VIEWERS)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 1)])
def test_scalars_and_empty_tensors_have_their_shape(framework: str, shape: tuple[int, ...]) -> None:
    tensor = viewer(framework, DTYPES["float32"])(allocate(0 if 0 in shape else 4), shape)
    assert tuple(tensor.shape) == shape


def test_torch_is_the_default_where_it_is_installed() -> None:
    assert isinstance(viewer(None, DTYPES["float32"])(allocate(4), ()), torch.Tensor)


def test_numpy_is_the_default_where_torch_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightwell.frameworks.find_spec", lambda _: None)
    assert isinstance(viewer(None, DTYPES["float32"])(allocate(4), ()), np.ndarray)


@pytest.mark.parametrize(
    ("module", "framework", "dtype", "extra"),
    [
        ("torch", "torch", "float32", "weightwell[torch]"),
        ("numpy", "numpy", "float32", "weightwell[numpy]"),
        ("ml_dtypes", "numpy", "bfloat16", "weightwell[numpy]"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, module: str, framework: str, dtype: str, extra: str
) -> None:
    def absent(name: str, *_: object) -> Any:
        if name == module:
            raise ModuleNotFoundError(name)
        return sys.modules[name]

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingFramework) as caught:
        viewer(framework, DTYPES[dtype])
    assert f"pip install '{extra}'" in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_an_unknown_framework_is_refused() -> None:
    with pytest.raises(ValueError, match="one of torch, numpy, got 'jax'"):
        viewer("jax", DTYPES["float32"])


def test_a_device_is_where_torch_moves_the_tensor_to() -> None:
    tensor = viewer("torch", DTYPES["float32"], "meta")(allocate(4), (1,))
    assert tensor.device == torch.device("meta")


def test_an_array_has_no_device() -> None:
    with pytest.raises(ValueError, match="numpy array has no device"):
        viewer("numpy", DTYPES["float32"], "cuda:0")
