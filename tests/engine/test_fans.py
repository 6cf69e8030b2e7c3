from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.fans import Fans

shapes = st.lists(st.integers(1, 9), min_size=2, max_size=5).map(tuple)


@given(shapes)
def test_fans_are_those_of_torch(shape: tuple[int, ...]) -> None:
    fans = Fans.of(shape)
    assert (fans.fan_in, fans.fan_out) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_fans_of_a_grouped_convolution_are_those_of_one_of_its_groups(
    groups: int, outputs: int, inputs: int, kernel: list[int]
) -> None:
    grouped, one = Fans.of((groups * outputs, inputs, *kernel), groups=groups), Fans.of((outputs, inputs, *kernel))
    assert (grouped.fan_in, grouped.fan_out) == (one.fan_in, one.fan_out)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(("layer", "transposed"), [(torch.nn.Conv2d, False), (torch.nn.ConvTranspose2d, True)])
def test_fans_count_the_connections_of_torch_layers(
    layer: type[torch.nn.Conv2d | torch.nn.ConvTranspose2d], transposed: bool, groups: int
) -> None:
    weight = layer(6, 12, (3, 5), groups=groups, device="meta").weight
    fans = Fans.of(tuple(weight.shape), groups=groups, transposed=transposed)
    assert (fans.fan_in, fans.fan_out) == (6 // groups * 15, 12 // groups * 15)


@given(shapes, st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_a_given_fan_replaces_the_fan_of_the_shape(shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
    assert Fans.of(shape, fan_in=fan_in).fan_in == fan_in
    assert Fans.of(shape, fan_in=fan_in).fan_out == Fans.of(shape).fan_out
    assert Fans.of(shape, fan_out=fan_out).fan_out == fan_out
    assert Fans.of(shape, fan_out=fan_out).fan_in == Fans.of(shape).fan_in


@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_shape_with_fewer_than_two_dimensions_has_only_the_fans_that_are_given(shape: tuple[int, ...]) -> None:
    fans = Fans.of(shape, fan_in=3)
    assert fans.fan_in == 3
    with pytest.raises(InvalidSpec, match="fewer than 2 dimensions") as caught:
        _ = fans.fan_out
    assert caught.value.field == "shape"
    assert "fan_out" in caught.value.expected


@pytest.mark.parametrize(("mode", "value"), [("fan_in", 8.0), ("fan_out", 2.0), ("fan_avg", 5.0), ("fan_geo_avg", 4.0)])
def test_a_mode_is_a_fan_or_a_mean_of_both(mode: str, value: float) -> None:
    assert Fans.of((2, 8)).mode(mode) == value


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="mode must be fan_in, fan_out, fan_avg or fan_geo_avg, got 'fan_max'"):
        Fans.of((2, 8)).mode("fan_max")


def test_groups_that_do_not_divide_the_first_dimension_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="groups must be a divisor of the first dimension, which is 4, got 3"):
        Fans.of((4, 3), groups=3)


# Axes by name --------------------------------------------------------------------------------------------------------


def counted(shape: tuple[int, ...], **names: Any) -> tuple[int | None, int | None]:
    fans = Fans.of(shape, **names)
    return fans.given_in, fans.given_out


def fans_of_jax(
    shape: tuple[int, ...], in_axis: tuple[int, ...], out_axis: tuple[int, ...], batch_axis: tuple[int, ...]
) -> tuple[float, float]:
    """Return the fans by the documentation of jax.nn.initializers.variance_scaling.

    The axes that are not in any of the arguments are the receptive field, and those of the batch are ignored.
    """
    inputs, outputs, batch = (prod(shape[axis] for axis in axes) for axes in (in_axis, out_axis, batch_axis))
    field = prod(shape) / inputs / outputs / batch
    return inputs * field, outputs * field


@given(st.data(), st.lists(st.integers(1, 9), min_size=3, max_size=6).map(tuple))
def test_fans_by_axes_are_those_of_jax(data: st.DataObject, shape: tuple[int, ...]) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    one, two, three = sorted(data.draw(st.tuples(*[st.integers(1, len(shape))] * 3)))
    in_axis, out_axis, batch_axis = tuple(order[:one]), tuple(order[one:two]), tuple(order[two:three])
    ours = counted(shape, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)
    assert ours == pytest.approx(fans_of_jax(shape, in_axis, out_axis, batch_axis))


@given(shapes)
def test_the_layout_of_jax_has_its_inputs_and_outputs_last(shape: tuple[int, ...]) -> None:
    assert counted(shape, layout="jax") == fans_of_jax(shape, (-2,), (-1,), ())
    assert counted(shape, layout="jax") == counted((shape[-1], shape[-2], *shape[:-2]))


@given(shapes, st.integers(1, 9))
def test_a_batch_of_weights_has_the_fans_of_one(shape: tuple[int, ...], batch: int) -> None:
    for layout in ("torch", "jax"):
        assert counted((batch, *shape), batch_axis=(0,), layout=layout) == counted(shape, layout=layout)
        assert counted((*shape, batch), batch_axis=(-1,), layout=layout) == counted(shape, layout=layout)


@pytest.mark.parametrize(
    ("shape", "names", "fans"),
    [
        # Keras: a kernel of rank 2 is (fan_in, fan_out), one of rank 3 or more (*receptive_field, in, out).
        ((784, 512), {"layout": "jax"}, (784, 512)),
        ((3, 3, 64, 128), {"layout": "jax"}, (576, 1152)),
        # keras#22789: EinsumDense and the projections of MultiHeadAttention, which were counted as convolutions:
        # query, key and value (d, heads, d_head); the output (heads, d_head, d).
        ((512, 8, 64), {"in_axis": (0,), "out_axis": (1, 2)}, (512, 512)),
        ((8, 64, 512), {"in_axis": (0, 1), "out_axis": (2,)}, (512, 512)),
        ((512, 8, 64), {"layout": "jax"}, (8 * 512, 64 * 512)),  # as a convolution
        # keras#11773: in a depthwise convolution, (*kernel, in, multiplier), each output has one input channel.
        ((3, 3, 32, 2), {"in_axis": (), "out_axis": (3,), "batch_axis": (2,)}, (9, 18)),
        # Flax says so by feature_group_count, its kernel being (*kernel, in / groups, out).
        ((3, 3, 1, 64), {"layout": "jax", "groups": 32}, (9, 18)),
        # Stacked experts, in the layouts of torch, and of JAX and transformers.
        ((8, 1024, 256), {"batch_axis": (0,)}, (256, 1024)),
        ((8, 256, 1024), {"batch_axis": (0,), "layout": "jax"}, (256, 1024)),
        # The axes of JAX's own tests of variance_scaling, for a shape of (2, 3, 4, 5).
        ((2, 3, 4, 5), {"in_axis": (0, 1), "out_axis": (-2, -1)}, (6, 20)),
        ((2, 3, 4, 5), {"in_axis": (0,), "out_axis": (2, 3), "batch_axis": (1,)}, (2, 20)),
        # Keras' Conv2DTranspose: (*kernel, out, in).
        ((3, 3, 128, 64), {"layout": "jax", "transposed": True}, (576, 1152)),
    ],
)
def test_fans_of_well_known_layers(shape: tuple[int, ...], names: dict[str, Any], fans: tuple[int, int]) -> None:
    assert counted(shape, **names) == fans


def test_a_given_fan_replaces_the_one_that_is_counted_by_axes() -> None:
    axes = {"in_axis": (0,), "out_axis": (1, 2)}
    assert counted((512, 8, 64), **axes, fan_in=7) == (7, 512)
    assert counted((512, 8, 64), **axes, fan_out=7) == (512, 7)


@pytest.mark.parametrize(
    ("shape", "names", "detail"),
    [
        (
            (4, 3, 3),
            {"groups": 2, "in_axis": (1,)},
            "groups must be 1 if in_axis or out_axis is given; give the fans of one group as fan_in and fan_out, got 2",
        ),
        (
            (2, 4, 3),
            {"groups": 3, "batch_axis": (0,)},
            "groups must be a divisor of the size of axis 1, which is 4, got 3",
        ),
        (
            (3, 3, 1, 64),
            {"groups": 3, "layout": "jax"},
            "groups must be a divisor of the size of axis 3, which is 64, got 3",
        ),
    ],
)
def test_groups_that_do_not_fit_the_axes_are_refused(
    shape: tuple[int, ...], names: dict[str, Any], detail: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Fans.of(shape, **names)
    assert caught.value.detail == detail


def test_what_is_left_besides_the_batch_may_be_too_little_to_say_the_fans() -> None:
    fans = Fans.of((8, 5), batch_axis=(0,), fan_in=5)
    assert fans.fan_in == 5
    with pytest.raises(InvalidSpec) as caught:
        _ = fans.fan_out
    assert caught.value.expected == "2 or more dimensions, not counting batch_axis, or an explicit fan_out"
