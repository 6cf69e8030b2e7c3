import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save

from weightwell_engine.dtypes import DTYPES, FLOATS, INTEGERS, DType


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_dtype_agrees_with_torch_and_safetensors(dtype: DType) -> None:
    theirs = getattr(torch, dtype.name)
    assert DTYPES[dtype.name] is dtype
    assert dtype.is_integer == (not theirs.is_floating_point)
    assert dtype.itemsize == theirs.itemsize
    assert f'"dtype":"{dtype.code}"'.encode() in save({"w": torch.zeros(3, dtype=theirs)})


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_the_largest_number_of_a_float_is_torch_s(dtype: DType) -> None:
    assert dtype.max == torch.finfo(getattr(torch, dtype.name)).max


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_the_exponents_of_a_float_are_those_of_torch_s_normal_numbers(dtype: DType) -> None:
    info = torch.finfo(getattr(torch, dtype.name))
    assert 2.0 ** dtype.exponents[0] == info.smallest_normal
    assert 2.0 ** dtype.exponents[1] <= info.max < 2 * 2 ** dtype.exponents[1]


@pytest.mark.parametrize("dtype", INTEGERS.values(), ids=INTEGERS)
def test_the_range_of_an_integer_type_is_torch_s(dtype: DType) -> None:
    if dtype.itemsize == 8:  # parameters are doubles
        assert -dtype.min == dtype.max == 2**53 - 1
    elif dtype.name == "bool":
        assert (dtype.min, dtype.max) == (0, 1)
    else:
        info = torch.iinfo(getattr(torch, dtype.name))
        assert (dtype.min, dtype.max) == (info.min, info.max)


FOUR, SCALE = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e8m0fnu


def test_the_small_types_have_the_numbers_of_ml_dtypes() -> None:
    four, scale = (np.array(range(256), np.uint8).view(each).astype(np.float32) for each in (FOUR, SCALE))
    assert DTYPES["float4_e2m1fn_x2"].max == four[:16].max()
    assert [DTYPES["float8_e8m0fnu"].min, DTYPES["float8_e8m0fnu"].max] == [scale[0], scale[254]]
    assert np.isnan(scale[255])
    assert DTYPES["float8_e8m0fnu"].exponents == (-127, 127)


def test_every_integer_up_to_the_largest_is_a_double_of_its_own() -> None:
    largest = DTYPES["int64"].max
    assert float(int(largest) + 1) - 1 == largest
    assert float(int(largest) + 2) == largest + 1
    assert largest < torch.iinfo(torch.int64).max


def test_every_tensor_begins_at_a_multiple_of_its_item_size_because_wider_dtypes_come_first() -> None:
    sizes = [dtype.itemsize for dtype in DTYPES.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 % size == 0 for size in sizes)
