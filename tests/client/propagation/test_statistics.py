"""Statistics of tensors, compared with numpy in float64, and where float32 overflows."""

import math

import numpy as np
import pytest
import torch

from weightwell.propagation.statistics import forward_statistics, mean_size, rms


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_statistics_are_those_of_numpy(dtype: torch.dtype, axis: int) -> None:
    tensor = (torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
    tensor[0, 0] = 0
    values = tensor.double().numpy()
    found = forward_statistics(tensor, axis)
    others = tuple(each for each in range(3) if each != axis % 3)
    expected = {
        "mean": values.mean(),
        "std": values.std(),
        "rms": math.sqrt((values**2).mean()),
        "largest": np.abs(values).max(),
        "zeros": 7 / 210,
        "not_finite": 0.0,
        "channel_squared_mean": (values.mean(others) ** 2).mean(),
        "channel_variance": values.var(others).mean(),
    }
    assert found == {f"forward.{name}": pytest.approx(value, rel=1e-6, abs=1e-12) for name, value in expected.items()}
    assert rms(tensor) == pytest.approx(expected["rms"], rel=1e-6)
    assert mean_size(tensor) == pytest.approx(np.abs(values).mean(), rel=1e-6)


@pytest.mark.parametrize("size", [2.0**100, 2.0**-100, 2.0**127, 2.0**-149])
def test_squares_neither_overflow_nor_vanish_in_float32(size: float) -> None:
    tensor = torch.tensor([[size, -size], [size, size]])
    found = forward_statistics(tensor, 1)
    assert found["forward.rms"] == found["forward.largest"] == rms(tensor) == tensor[0, 0]
    assert found["forward.mean"] == tensor[0, 0] / 2


@pytest.mark.parametrize(("value", "size"), [(math.inf, math.inf), (-math.inf, math.inf), (math.nan, math.nan)])
def test_one_value_that_is_not_finite_is_in_the_statistics(value: float, size: float) -> None:
    tensor = torch.tensor([1.0, 0.0, 2.0, value])
    found = forward_statistics(tensor, 0)
    for number in (found["forward.rms"], found["forward.largest"], rms(tensor)):
        assert number == pytest.approx(size, nan_ok=True)
    assert math.isnan(found["forward.mean"])
    assert (found["forward.zeros"], found["forward.not_finite"]) == (0.25, 0.25)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3)])
def test_a_tensor_of_few_axes_has_statistics(shape: tuple[int, ...]) -> None:
    found = forward_statistics(torch.full(shape, 2.0), len(shape) - 1)
    assert found["forward.channel_squared_mean"] == 4
    assert found["forward.channel_variance"] == 0


def test_zeros_have_an_rms_of_zero() -> None:
    assert forward_statistics(torch.zeros(2, 2), 1)["forward.rms"] == rms(torch.zeros(2)) == 0


def test_a_tensor_without_elements_has_no_statistics() -> None:
    assert forward_statistics(torch.empty(0, 3), 1) == {}
    assert math.isnan(rms(torch.empty(0)))
