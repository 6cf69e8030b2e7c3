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
    tensor = torch.zeros(3, dtype=getattr(torch, dtype.name))
    header = safetensors.torch.save({"weight": tensor})[PREFIX : -3 * dtype.itemsize]
    assert tensor.itemsize == dtype.itemsize
    assert read_header(header).entries["weight"].dtype == dtype.code


@ROWS
def test_a_dtype_is_known_by_every_name_it_has(dtype: DType) -> None:
    scalar = getattr(np, dtype.name, None) or getattr(ml_dtypes, dtype.name)
    for spelling in (dtype.name, f"torch.{dtype.name}", getattr(torch, dtype.name), scalar, np.dtype(scalar)):
        assert dtype_of(spelling) is dtype


@pytest.mark.parametrize("dtype", ["half", "int32", torch.int8, np.uint8, float, None, 3, ""])
def test_another_dtype_is_refused_with_the_table(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"one of float32, float64, .* got"):
        dtype_of(dtype)


def test_a_misspelt_dtype_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"got 'bflaot16'; did you mean bfloat16\?"):
        dtype_of("bflaot16")
