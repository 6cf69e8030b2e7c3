from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.axes import Axes, Names, Shape
from weightwell_engine.exceptions import InvalidSpec

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=6).map(tuple)


def axes_of(shape: Shape, **names: object) -> Axes:
    axes = Axes.of(shape, **names)
    assert axes is not None
    return axes


@st.composite
def named(draw: st.DrawFn) -> tuple[Shape, Names]:
    """Draw a shape, and different axes of it as inputs, outputs and batch, each of them perhaps from the end."""
    shape = draw(shapes)
    order = draw(st.permutations(range(len(shape))))
    cuts = sorted(draw(st.lists(st.integers(0, len(shape)), min_size=3, max_size=3)))
    parts = (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] : cuts[2]])
    ends = [tuple(axis - draw(st.sampled_from([0, len(shape)])) for axis in part) for part in parts]
    return shape, Names(in_axis=ends[0], out_axis=ends[1], batch_axis=ends[2])


# The roles of axes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "names", "parts"),
    [
        ((8, 6), {}, ["out", "in"]),
        ((8, 6), {"layout": "jax"}, ["in", "out"]),
        ((8, 6, 3, 3), {}, ["out", "in", "kernel", "kernel"]),
        ((3, 3, 6, 8), {"layout": "jax"}, ["kernel", "kernel", "in", "out"]),
        ((6, 8, 3), {"transposed": True}, ["in", "out", "kernel"]),
        ((3, 8, 6), {"layout": "jax", "transposed": True}, ["kernel", "out", "in"]),
        ((4, 8, 6), {"batch_axis": (0,)}, ["batch", "out", "in"]),
        ((4, 6, 8), {"batch_axis": (0,), "layout": "jax"}, ["batch", "in", "out"]),
        ((8, 4, 6, 3), {"batch_axis": (1,)}, ["out", "batch", "in", "kernel"]),
        ((6, 8, 4), {"batch_axis": (-1,), "layout": "jax"}, ["in", "out", "batch"]),
        ((64, 4, 16), {"in_axis": (0,), "out_axis": (1, 2)}, ["in", "out", "out"]),
        ((4, 16, 64), {"in_axis": (0, 1), "out_axis": (-1,)}, ["in", "in", "out"]),
        ((8, 6, 3), {"in_axis": (1,)}, ["out", "in", "kernel"]),
        ((5, 5, 6, 2), {"in_axis": (), "out_axis": (-1,), "batch_axis": (-2,)}, ["kernel", "kernel", "batch", "out"]),
        ((6,), {"in_axis": (0,), "out_axis": ()}, ["in"]),
    ],
)
def test_an_axis_has_the_role_of_its_name_or_of_the_layout(
    shape: Shape, names: dict[str, object], parts: list[str]
) -> None:
    assert list(axes_of(shape, **names).parts) == parts


@given(named())
def test_every_axis_is_one_thing(drawn: tuple[Shape, Names]) -> None:
    shape, names = drawn
    axes = axes_of(shape, **names)
    assert sorted((*axes.inputs, *axes.outputs, *axes.batch, *axes.kernel)) == list(range(len(shape)))


@pytest.mark.parametrize(
    ("shape", "names"), [((), {}), ((5,), {}), ((5,), {"layout": "jax"}), ((5, 4), {"batch_axis": (0,)})]
)
def test_a_layout_says_nothing_of_fewer_than_two_axes(shape: Shape, names: Names) -> None:
    assert Axes.of(shape, **names) is None


@pytest.mark.parametrize(
    ("shape", "names", "detail"),
    [
        ((8, 6), {"in_axis": (2,)}, "in_axis must be axes of the shape, from -2 to 1, got 2"),
        ((8, 6), {"batch_axis": (-3,)}, "batch_axis must be axes of the shape, from -2 to 1, got -3"),
        ((), {"batch_axis": (0,)}, "batch_axis must be absent, as a scalar has no axes, got 0"),
        ((8, 6), {"out_axis": (0, -2)}, "out_axis must be different axes of a shape that has 2, got [0, -2]"),
        (
            (64, 4, 16),
            {"in_axis": (0,)},
            "in_axis must be given with out_axis, which is [0] in this layout, got [0]",
        ),
        (
            (64, 4, 16),
            {"out_axis": (1, 2)},
            "out_axis must be given with in_axis, which is [1] in this layout, got [1, 2]",
        ),
        (
            (64, 4, 16),
            {"in_axis": (0, 1), "out_axis": (1, 2)},
            "in_axis must be axes other than out_axis, which is [1, 2], got [0, 1]",
        ),
        (
            (64, 4, 16),
            {"in_axis": (0,), "batch_axis": (0,)},
            "in_axis must be axes other than batch_axis, which is [0], got [0]",
        ),
        ((5,), {"in_axis": (0,)}, "in_axis must be given with out_axis, as the shape has too few other axes, got [0]"),
        (
            (8, 6),
            {"transposed": True, "in_axis": (0,), "out_axis": (1,)},
            "transposed must be false if in_axis or out_axis is given, because these already name the axes, got True",
        ),
    ],
)
def test_contradicting_axis_names_are_refused_with_advice(shape: Shape, names: dict[str, object], detail: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        axes_of(shape, **names)
    assert caught.value.detail == detail


# Where the elements are in the order batch, outputs, inputs, kernel ---------------------------------------------------


@given(named())
def test_strides_are_those_of_the_transposed_tensor(drawn: tuple[Shape, Names]) -> None:
    shape, names = drawn
    axes = axes_of(shape, **names)
    order = (*axes.batch, *axes.outputs, *axes.inputs, *axes.kernel)
    stack = np.arange(prod(shape)).reshape([shape[axis] for axis in order])
    sizes, strides = axes.strides()
    itemsize = stack.itemsize
    view = np.lib.stride_tricks.as_strided(stack, sizes, [stride * itemsize for stride in strides])
    np.testing.assert_array_equal(view.ravel(), stack.transpose(np.argsort(order)).ravel())


@given(named())
def test_axes_that_follow_each_other_in_both_orders_are_one(drawn: tuple[Shape, Names]) -> None:
    shape, names = drawn
    sizes, strides = axes_of(shape, **names).strides()
    assert prod(sizes) == prod(shape)
    assert prod(shape) == 1 or 1 not in sizes
    assert all(strides[i] != sizes[i + 1] * strides[i + 1] for i in range(len(sizes) - 1))


@given(shapes)
def test_a_tensor_in_the_order_of_torch_is_a_single_run(shape: Shape) -> None:
    assert axes_of(shape).strides() == ((prod(shape),), (1,))
    assert axes_of((3, *shape), batch_axis=(0,)).strides() == ((3 * prod(shape),), (1,))
