import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.generators import deterministic
from weightwell_engine.laws import Constant, Lattice, Law
from weightwell_engine.plan import Piece, PlannedTensor
from weightwell_engine.regions import Region

NUMPY = {
    "int64": np.int64,
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def filled(law: Law, region: Region, start: int, stop: int, dtype: str) -> np.ndarray:
    tensor = PlannedTensor("w", 0, DTYPES[dtype], law, region, 0)
    piece = Piece(tensor, start, stop)
    data = bytearray(b"\xff" * piece.nbytes)
    deterministic.fill(piece, memoryview(data))
    return np.frombuffer(data, NUMPY[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
@given(value=st.floats(-1, 1))
def test_a_constant_is_rounded_as_torch_rounds_it(dtype: str, value: float) -> None:
    [found] = filled(Constant(value), Region.whole(()), 0, 1, dtype)
    expected = torch.nn.init.constant_(torch.empty((), dtype=getattr(torch, dtype)), value).to(torch.float64).item()
    assert float(found).hex() == float(expected).hex()


@given(value=st.integers(1 - 2**53, 2**53 - 1))
def test_an_integer_constant_keeps_its_value(value: int) -> None:
    [found] = filled(Constant(float(value)), Region.whole(()), 0, 1, "int64")
    assert found == value


# Just above what lies halfway between 1 and the next of the dtype: float32 does not see that it is above.
@pytest.mark.parametrize(
    ("dtype", "digits"), [("bfloat16", 8), ("float16", 11), ("float8_e4m3fn", 4), ("float8_e5m2", 3)]
)
def test_a_constant_of_a_narrow_dtype_is_rounded_by_way_of_float32(dtype: str, digits: int) -> None:
    [found] = filled(Constant(1 + 2**-digits + 2**-40), Region.whole(()), 0, 1, dtype)
    assert float(found) == 1.0


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_a_piece_of_a_lattice_is_that_of_the_whole(dtype: str, data: st.DataObject) -> None:
    rows, cols = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    top, left = data.draw(st.tuples(st.integers(0, rows), st.integers(0, cols)))
    region = Region((rows, cols), (top, left), (rows, cols))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    law = Lattice(-1.5, 0, (rows * cols, cols + 1), (1, min(rows, cols)))
    expected = (-1.5 * np.eye(rows, cols))[top:, left:].ravel()[start:stop]
    np.testing.assert_array_equal(filled(law, region, start, stop, dtype).astype(float), abs(expected) * -1 + 0.0)
