"""Stacks of orthogonal matrices: the values of their elements, for any order of axes."""

from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.axes import Axes
from weightwell_engine.dtypes import DTYPES, FLOATS, DType
from weightwell_engine.generators.philox.cpu import orthogonal_stack
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.orthogonal_stack import OrthogonalStacks, nbytes
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.laws import Orthogonal, OrthogonalStack
from weightwell_engine.regions import Runs, indices
from weightwell_engine.schemes import SCHEMES

FLOAT32 = DTYPES["float32"]


def stack(shape: tuple[int, ...], scheme: str = "orthogonal", gain: float = 1.25, **axes: Any) -> OrthogonalStack:
    law = SCHEMES[scheme].law(shape, {"gain": gain, **axes}, portable=True)
    assert isinstance(law, OrthogonalStack)
    return law


EXPERTS = stack((5, 9, 6), batch_axis=(0,))
HEADS = stack((7, 3, 4), in_axis=(0,), out_axis=(2,), batch_axis=(1,))
LAWS = {
    "experts of torch": EXPERTS,
    "experts of jax": stack((5, 6, 9), batch_axis=(0,), layout="jax"),
    "dense of jax": stack((66, 70), layout="jax"),
    "convolution of jax": stack((3, 2, 4, 5), layout="jax"),
    "heads": HEADS,
    "batch inside": stack((6, 5, 9), in_axis=(0,), out_axis=(2,), batch_axis=(1,), gain=-0.5),
    "batch on both sides": stack((2, 6, 9, 3), in_axis=(1,), out_axis=(2,), batch_axis=(0, 3)),
    "kernels of jax": stack((3, 3, 4, 6), "delta_orthogonal", layout="jax"),
    "stacked kernels": stack((2, 6, 4, 3), "delta_orthogonal", batch_axis=(0,)),
    "kernels with a batch inside": stack(
        (4, 6, 2, 5), "delta_orthogonal", in_axis=(0,), out_axis=(1,), batch_axis=(2,)
    ),
}


def _draw(law: Orthogonal | OrthogonalStack, runs: Runs, dtype: DType = FLOAT32, *, seed: int = 0) -> NDArray[Any]:
    return _filled(prepare(law, dtype, seed, "ö"), runs, dtype)


def _filled(prepared: Any, runs: Runs, dtype: DType = FLOAT32) -> NDArray[Any]:
    bits = np.empty(runs.size, UNSIGNED[dtype.itemsize])
    prepared.fill(runs, bits.data.cast("B"))
    return bits


def _whole(law: OrthogonalStack) -> Runs:
    return Runs(0, prod(law.sizes), 0, 1)


@st.composite
def runs_within(draw: st.DrawFn, law: OrthogonalStack) -> Runs:
    size = prod(law.sizes)
    first = draw(st.integers(0, size - 1))
    length = draw(st.one_of(st.integers(1, min(size - first, 4)), st.integers(1, size - first)))
    stride = draw(st.one_of(st.integers(1, 30), st.integers(0, size)))
    most = (size - first - length) // stride + 1 if stride else 1
    return Runs(first, length, stride, draw(st.integers(1, min(most, 50))))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_a_stack_equals_the_reference(law: OrthogonalStack, dtype: DType) -> None:
    expected = _filled(reference.Prepared(law, dtype, 2**64 - 1, "ö"), _whole(law), dtype)
    np.testing.assert_array_equal(_draw(law, _whole(law), dtype, seed=2**64 - 1), expected)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@given(data=st.data())
def test_any_runs_are_those_of_the_whole(law: OrthogonalStack, data: st.DataObject) -> None:
    runs = data.draw(runs_within(law))
    np.testing.assert_array_equal(_draw(law, runs), _draw(law, _whole(law))[indices(runs)])


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_blocks_groups_and_threads_change_nothing(law: OrthogonalStack) -> None:
    expected = _draw(law, _whole(law))
    for block, group in ((7, 1), (1 << 15, 100), (64, 1 << 18)):
        with (
            mock.patch.multiple(orthogonal_stack, _BLOCK=block, _GROUP=group, _KEPT=1),
            ThreadPoolExecutor(2) as executor,
            ThreadPoolExecutor(4) as chunks,
        ):
            prepared = prepare(law, FLOAT32, 0, "ö", executor)
            size = -(-expected.size // 11)
            parts = [Runs(start, min(size, expected.size - start), 0, 1) for start in range(0, expected.size, size)]
            drawn = np.concatenate(list(chunks.map(lambda runs, prepared=prepared: _filled(prepared, runs), parts)))
        np.testing.assert_array_equal(drawn, expected)


# What the matrices are -----------------------------------------------------------------------------------------------


def _numbers(law: OrthogonalStack, shape: tuple[int, ...]) -> NDArray[Any]:
    drawn: NDArray[Any] = _draw(law, _whole(law), DTYPES["float64"]).view(np.float64).reshape(shape)
    return drawn


def test_every_entry_of_a_batch_is_orthogonal_and_none_is_another() -> None:
    matrices = _numbers(EXPERTS, (5, 9, 6)) / 1.25
    products = np.einsum("boi,boj->bij", matrices, matrices)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(6), (5, 6, 6)), atol=1e-14)
    assert len(np.unique(matrices[:, 0, 0])) == 5


def test_a_projection_to_heads_is_a_matrix_for_each_head() -> None:
    heads = _numbers(HEADS, (7, 3, 4)).transpose(1, 0, 2) / 1.25
    np.testing.assert_allclose(heads.transpose(0, 2, 1) @ heads, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-14)


def test_entries_are_uncorrelated() -> None:
    law = stack((4000, 2, 2), batch_axis=(0,), gain=1.0)
    first = _numbers(law, (4000, 2, 2))[:, 0, 0]
    # The first element of a Haar-random matrix of order 2 is a cosine: of mean 0 and variance 1/2.
    assert abs(first.mean()) < 5 * (0.5 / 4000) ** 0.5
    assert abs((first[1:] * first[:-1]).mean()) < 5 * 0.5 / 4000**0.5


def test_the_first_entry_is_the_matrix_without_a_batch() -> None:
    alone = _draw(Orthogonal(9, 6, 1.25), Runs(0, 54, 0, 1))
    np.testing.assert_array_equal(_draw(EXPERTS, Runs(0, 54, 0, 1)), alone)


def test_a_stack_that_grows_keeps_its_matrices() -> None:
    larger = stack((8, 9, 6), batch_axis=(0,))
    np.testing.assert_array_equal(_draw(larger, _whole(EXPERTS)), _draw(EXPERTS, _whole(EXPERTS)))


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((6, 9), {"layout": "jax"}),
        ((3, 2, 4, 5), {"layout": "jax"}),
        ((5, 6, 9), {"layout": "jax", "batch_axis": (0,)}),
        ((6, 5, 9), {"in_axis": (0,), "out_axis": (2,), "batch_axis": (1,)}),
        ((6, 2, 4), {"in_axis": (0,), "out_axis": (1, 2)}),
    ],
)
def test_a_layout_moves_the_elements_of_torch_s_and_changes_none(shape: tuple[int, ...], names: dict[str, Any]) -> None:
    axes = Axes.of(shape, **names)
    assert axes is not None
    order = (*axes.batch, *axes.outputs, *axes.inputs, *axes.kernel)
    in_order = axes.sizes(order)
    batch = tuple(range(len(axes.batch)))
    outputs = tuple(range(len(batch), len(batch) + len(axes.outputs)))
    inputs = tuple(range(len(batch) + len(outputs), len(batch) + len(outputs) + len(axes.inputs)))
    said = {"batch_axis": batch, "out_axis": outputs, "in_axis": inputs}
    theirs = SCHEMES["orthogonal"].law(in_order, {"gain": 1.25, **said}, portable=True)
    assert isinstance(theirs, Orthogonal | OrthogonalStack)
    expected = _draw(theirs, Runs(0, prod(shape), 0, 1)).reshape(in_order).transpose(np.argsort(order))
    ours = stack(shape, **names)
    np.testing.assert_array_equal(_draw(ours, _whole(ours)).reshape(shape), expected)


# What it takes -------------------------------------------------------------------------------------------------------


def test_only_the_requested_matrices_of_a_contiguous_stack_are_drawn() -> None:
    law = stack((1000, 64, 64), batch_axis=(0,))
    drawn: list[int] = []
    group = OrthogonalStacks._group

    def counted(self: OrthogonalStacks, number: int) -> Any:
        drawn.append(number)
        return group(self, number)

    with mock.patch.object(orthogonal_stack, "_GROUP", 1), mock.patch.object(OrthogonalStacks, "_group", counted):
        _draw(law, Runs(700 * 4096 + 17, 4096, 0, 1))
    assert drawn == [700, 701]


def test_what_is_kept_does_not_grow_with_the_number_of_matrices_that_follow_each_other() -> None:
    few, many = (stack((count, 1024, 1024), batch_axis=(0,)) for count in (8, 10**6))
    assert nbytes(few, FLOAT32, 2) == nbytes(many, FLOAT32, 2) < 10 * 4 * 1024**2


def test_where_a_batch_is_inside_all_matrices_are_kept() -> None:
    inside = stack((1024, 1024, 8), batch_axis=(2,))
    assert nbytes(inside, FLOAT32, 2) > 8 * 4 * 1024**2


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_zero_gain_is_positive_zero_everywhere(law: OrthogonalStack) -> None:
    for gain in (0.0, -0.0):
        none = OrthogonalStack(law.rows, law.cols, gain, law.taps, law.centre, law.count, law.sizes, law.strides)
        assert not _draw(none, _whole(law)).any()
