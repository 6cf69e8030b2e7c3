"""An orthogonal matrix as a law: the positions and the values of its elements in the tensor."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES, FLOATS, DType
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.orthogonal import haar
from weightwell_engine.generators.philox.cpu.orthogonal_law import Orthogonals
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.draws import carrier_of, settle
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, encode
from weightwell_engine.laws import Normal, Orthogonal
from weightwell_engine.regions import Runs, indices

FLOAT32 = DTYPES["float32"]
# Plain and as the centre of a kernel, tall and wide, around the borders of blocks.
SHAPES = [(1, 1), (1, 7), (7, 1), (64, 64), (65, 65), (30, 130), (130, 63)]
LAWS = [
    *(Orthogonal(*shape, 1.25) for shape in SHAPES),
    Orthogonal(1, 1, -2.0, taps=3, centre=1),
    Orthogonal(20, 9, 0.5, taps=9, centre=4),
    Orthogonal(9, 20, 0.5, taps=4, centre=0),
    Orthogonal(12, 12, 0.5, taps=12, centre=11),
]
GAINS = [0.0, -0.0, -0.1, 1e-19, 3e-40, -1e-310, 448.0]

Fill = Callable[[Runs, memoryview], None]


def _draw(fill: Fill, runs: Runs, dtype: DType = FLOAT32) -> NDArray[Any]:
    bits = np.empty(runs.size, UNSIGNED[dtype.itemsize])
    fill(runs, bits.data.cast("B"))
    return bits


def _whole(law: Orthogonal) -> Runs:
    return Runs(0, law.rows * law.cols * law.taps, 0, 1)


@st.composite
def runs_within(draw: st.DrawFn, law: Orthogonal) -> Runs:
    size = law.rows * law.cols * law.taps
    first = draw(st.integers(0, size - 1))
    length = draw(st.one_of(st.integers(1, min(size - first, 4)), st.integers(1, min(size - first, 200))))
    stride = draw(st.one_of(st.integers(1, 30), st.integers(0, size)))
    most = (size - first - length) // stride + 1 if stride else 1
    return Runs(first, length, stride, draw(st.integers(1, min(most, 200))))


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_a_matrix_equals_the_reference(law: Orthogonal, dtype: DType) -> None:
    expected = _draw(reference.Prepared(law, dtype, 2**64 - 1, "ö").fill, _whole(law), dtype)
    np.testing.assert_array_equal(_draw(prepare(law, dtype, 2**64 - 1, "ö").fill, _whole(law), dtype), expected)


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_a_gain_has_the_effect_that_it_has_in_the_reference(gain: float, dtype: DType) -> None:
    law = Orthogonal(20, 9, gain)
    expected = _draw(reference.Prepared(law, dtype, 0, "weight").fill, _whole(law), dtype)
    np.testing.assert_array_equal(_draw(prepare(law, dtype, 0, "weight").fill, _whole(law), dtype), expected)


@pytest.mark.parametrize("law", LAWS, ids=str)
@given(data=st.data())
def test_any_runs_are_those_of_the_whole(law: Orthogonal, data: st.DataObject) -> None:
    runs, prepared = data.draw(runs_within(law)), prepare(law, FLOAT32, 0, "weight")
    expected = _draw(prepared.fill, _whole(law))[indices(runs)]
    np.testing.assert_array_equal(_draw(prepared.fill, runs), expected)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_an_executor_changes_nothing(threads: int) -> None:
    law = Orthogonal(150, 200, 1.0)
    with ThreadPoolExecutor(threads) as executor:
        drawn = _draw(prepare(law, FLOAT32, 0, "weight", executor).fill, _whole(law))
    np.testing.assert_array_equal(drawn, _draw(prepare(law, FLOAT32, 0, "weight").fill, _whole(law)))


def test_a_kernel_has_the_plain_matrix_at_its_centre_and_zeros_elsewhere() -> None:
    plain, kernel = Orthogonal(20, 9, 0.5), Orthogonal(20, 9, 0.5, taps=9, centre=4)
    matrix, kernels = (_draw(prepare(law, FLOAT32, 0, "weight").fill, _whole(law)) for law in (plain, kernel))
    expected = np.zeros((20 * 9, 9), np.uint32)
    expected[:, 4] = matrix
    np.testing.assert_array_equal(kernels, expected.ravel())


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_no_element_is_beyond_the_largest_number_of_its_dtype(dtype: DType) -> None:
    class NearlyAlone:
        """Two normals so far apart that the first element of the vector is 1, and rounded to a little more."""

        kernels = ()

        def fill(self, runs: Runs, out: memoryview) -> None:
            assert runs.size == 2
            np.frombuffer(out, carrier)[:] = first, 1e-8

    carrier, first = carrier_of(dtype).name, 0.96875
    law = Orthogonal(2, 1, dtype.max)
    bits = _draw(Orthogonals(law, settle(Normal(0.0, law.gain), dtype), NearlyAlone(), None).fill, _whole(law), dtype)
    assert haar(np.array([[first], [1e-8]], carrier))[0] > 1
    assert bits[0] == encode(np.array([dtype.max], carrier), dtype)[0]


@pytest.mark.parametrize("gain", [0.0, -0.0])
def test_without_a_gain_every_element_is_positive_zero(gain: float) -> None:
    law = Orthogonal(9, 9, gain)
    assert not _draw(prepare(law, FLOAT32, 0, "weight").fill, _whole(law)).any()
