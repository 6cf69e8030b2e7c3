import pytest
import torch
from safetensors.torch import _TYPES

from weightwell_service.dtypes import DTYPES, DType


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_dtype_is_what_torch_and_safetensors_say(dtype: DType) -> None:
    theirs = getattr(torch, dtype.name)
    assert DTYPES[dtype.name] is dtype
    assert dtype.max == torch.finfo(theirs).max
    assert dtype.itemsize == theirs.itemsize
    assert _TYPES[dtype.code] is theirs


def test_every_tensor_begins_at_a_multiple_of_its_item_size_because_wider_dtypes_come_first() -> None:
    sizes = [dtype.itemsize for dtype in DTYPES.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 % size == 0 for size in sizes)
