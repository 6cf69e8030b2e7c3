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
def test_a_given_fan_replaces_what_the_shape_says(shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
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
