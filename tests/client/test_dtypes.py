"""The dtype table agrees with torch, numpy and the safetensors library."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from weightwell.dtypes import DTYPES, DType, dtype_of
from weightwell.safetensors import PREFIX, read_header

ROWS = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@ROWS
def test_a_row_agrees_with_torch_and_safetensors(dtype: DType) -> None:
    tensor = torch.zeros(3 * dtype.itemsize, dtype=torch.uint8).view(getattr(torch, dtype.name))
    header = safetensors.torch.save({"weight": tensor})[PREFIX : -3 * dtype.itemsize]
    assert tensor.itemsize == dtype.itemsize
    assert read_header(header).entries["weight"].dtype == dtype.code


@ROWS
def test_a_dtype_is_known_by_every_name_it_has(dtype: DType) -> None:
    scalar = getattr(np, dtype.name, None) or getattr(ml_dtypes, dtype.name.removesuffix("_x2"))
    for spelling in (dtype.name, f"torch.{dtype.name}", getattr(torch, dtype.name), scalar, np.dtype(scalar)):
        assert dtype_of(spelling) is dtype


@pytest.mark.parametrize("dtype", ["half", "int4", torch.uint16, np.complex64, float, None, 3, ""])
def test_another_dtype_is_refused_with_the_table(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"one of float32, float64, .* got"):
        dtype_of(dtype)


def test_a_shape_of_torch_counts_the_bytes_of_a_packed_dtype() -> None:
    packed, plain = DTYPES["float4_e2m1fn_x2"], DTYPES["int8"]
    assert (packed.of_torch((2, 6)), packed.elements((2, 3)), packed.nbytes((2, 6))) == ((2, 3), (2, 6), 6)
    assert packed.elements_of(((0, 2), (1, 3))) == ((0, 2), (2, 6))
    assert (plain.of_torch((2, 6)), plain.elements((2, 3)), plain.nbytes((2, 6))) == ((2, 6), (2, 3), 12)


def test_a_misspelt_dtype_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"got 'bflaot16'; did you mean bfloat16\?"):
        dtype_of("bflaot16")
