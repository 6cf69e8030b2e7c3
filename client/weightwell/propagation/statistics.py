"""Statistics of tensors and gradients.

Squares of values above 1.8e19 are infinite in float32. So values are divided by a power of two first, which is exact.
"""

import math

import torch


def forward_statistics(tensor: torch.Tensor, channel_axis: int) -> dict[str, float]:
    """Return the statistics of the elements of a tensor of any shape, with the names of the columns of ``Signals``.

    They are computed in float32, or in float64 for a tensor of float64. ``std`` and the channels' variance divide by
    the number of elements. If an element is not finite, ``largest`` and ``rms`` are infinite or NaN, and the others
    NaN, except for ``zeros`` and ``not_finite``. A tensor without elements has no statistics.
    """
    if not tensor.numel():
        return {}
    values = _wide(tensor)
    largest = _largest(values)
    found = dict.fromkeys(("mean", "std", "rms", "channel_squared_mean", "channel_variance"), math.nan)
    found |= {"largest": largest, "rms": largest, "not_finite": 0.0}
    found["zeros"] = 1 - int(values.count_nonzero()) / values.numel()
    if not math.isfinite(largest):
        found["not_finite"] = 1 - int(values.isfinite().count_nonzero()) / values.numel()
    else:
        unit = _unit(largest)
        scaled = values / unit
        if scaled.ndim < 2:
            scaled, channel_axis = scaled.reshape(1, -1), 1
        others = [axis for axis in range(scaled.ndim) if axis != channel_axis % scaled.ndim]
        variances, means = torch.var_mean(scaled, dim=others, correction=0)
        # Channels have equally many elements, so that all else follows from their moments.
        between, mean = torch.var_mean(means, correction=0)
        numbers = (mean, variances.mean(), between, means.square().mean())
        mean, within, between, squares = torch.stack(numbers).tolist()  # one transfer from a GPU
        found["mean"] = mean * unit
        found["std"] = math.sqrt(within + between) * unit
        found["rms"] = math.sqrt(within + squares) * unit
        found["channel_squared_mean"] = squares * unit * unit
        found["channel_variance"] = within * unit * unit
    return {f"forward.{name}": value for name, value in found.items()}


def rms(tensor: torch.Tensor) -> float:
    """Return the root mean square of a tensor. It is infinite or NaN if an element is, and NaN without elements."""
    if not tensor.numel():
        return math.nan
    values = _wide(tensor)
    largest = _largest(values)
    if not math.isfinite(largest):
        return largest
    unit = _unit(largest)
    return math.sqrt(float((values / unit).square_().mean())) * unit


def mean_size(tensor: torch.Tensor) -> float:
    """Return the mean absolute value of a tensor, in float32 or float64."""
    return float(_wide(tensor).abs().mean())


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    detached = tensor.detach()
    return detached if detached.dtype == torch.float64 else detached.float()


def _largest(values: torch.Tensor) -> float:
    """Return the largest absolute value; NaN if there is a NaN."""
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return math.nan if math.isnan(low) else max(-low, high) + 0.0  # no -0.0


def _unit(largest: float) -> float:
    """Return the power of two in [largest / 2, largest], or 1 for zero."""
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0
