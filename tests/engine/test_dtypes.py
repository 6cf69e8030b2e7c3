import pytest
import torch
from safetensors.torch import _TYPES

from weightwell_engine.dtypes import DTYPES, FLOATS, DType


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_dtype_agrees_with_torch_and_safetensors(dtype: DType) -> None:
    theirs = getattr(torch, dtype.name)
    assert DTYPES[dtype.name] is dtype
    assert dtype.is_integer == (not theirs.is_floating_point)
    assert dtype.itemsize == theirs.itemsize
    assert _TYPES[dtype.code] is theirs


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_the_largest_number_of_a_float_is_torch_s(dtype: DType) -> None:
    assert dtype.max == torch.finfo(getattr(torch, dtype.name)).max


def test_every_integer_up_to_the_largest_is_a_double_of_its_own() -> None:
    largest = DTYPES["int64"].max
    assert float(int(largest) + 1) - 1 == largest
    assert float(int(largest) + 2) == largest + 1
    assert largest < torch.iinfo(torch.int64).max


def test_every_tensor_begins_at_a_multiple_of_its_item_size_because_wider_dtypes_come_first() -> None:
    sizes = [dtype.itemsize for dtype in DTYPES.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 % size == 0 for size in sizes)
