"""Laws that initializers give: the distribution of a tensor, and what an operation makes of it.

``affine(scale, shift)`` is the law of ``scale * x + shift``, ``clamped(low, high)`` that of x moved to the bounds; both
are None if no scheme draws the result. ``fields()`` is the scheme with its parameters, as a manifest has them.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar

Fields = dict[str, Any]

# How far the bounds of torch's older trunc_normal_, which it computes twice, may be from one another, in deviations.
_TOLERANCE = 1e-3
# Deviations from the mean beyond which older trunc_normal_ draws no numbers, and those beyond which nobody does.
_FAR, _NEVER = 5.0, 40.0


@dataclass(frozen=True, slots=True)
class Law:
    """A law of which every element is drawn by itself if it ``is_elementwise``: a part of it has the same law."""

    is_elementwise: ClassVar[bool] = True

    def affine(self, scale: float, shift: float) -> "Law | None":
        """Return the law of ``scale * x + shift``."""
        return self if (scale, shift) == (1.0, 0.0) else None

    def clamped(self, low: float, high: float) -> "Law | None":
        """Return the law of ``min(max(x, low), high)``."""
        del low, high
        return None

    def erfinv(self) -> "Law | None":
        """Return the law of the inverse error function of x."""
        return None

    def fields(self, shape: tuple[int, ...]) -> Fields | None:
        """Return the scheme and its parameters for a tensor of this shape; None if no scheme draws it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Constant(Law):
    """Every element is ``value``."""

    value: float

    def affine(self, scale: float, shift: float) -> Law:
        """Return the law of ``scale * x + shift``."""
        return Constant(scale * self.value + shift)

    def clamped(self, low: float, high: float) -> Law:
        """Return the law of ``min(max(x, low), high)``."""
        return Constant(min(max(self.value, low), high))

    def fields(self, shape: tuple[int, ...]) -> Fields | None:
        """Return the scheme and its parameters."""
        del shape
        if not math.isfinite(self.value):
            return None
        return {0.0: {"scheme": "zeros"}, 1.0: {"scheme": "ones"}}.get(
            self.value, {"scheme": "constant", "val": self.value}
        )


@dataclass(frozen=True, slots=True)
class Uniform(Law):
    """U[low, high]."""

    low: float
    high: float

    def affine(self, scale: float, shift: float) -> Law:
        """Return the law of ``scale * x + shift``."""
        ends = scale * self.low + shift, scale * self.high + shift
        return Uniform(min(ends), max(ends))

    def clamped(self, low: float, high: float) -> Law | None:
        """Return the same law if the bounds change nothing."""
        return self if low <= self.low and self.high <= high else None

    def erfinv(self) -> Law | None:
        """Return the law of the inverse error function of x: that of a truncated normal."""
        return InverseError(self.low, self.high) if -1.0 <= self.low <= self.high <= 1.0 else None

    def fields(self, shape: tuple[int, ...]) -> Fields:
        """Return the scheme and its parameters."""
        del shape
        return {"scheme": "uniform", "a": self.low, "b": self.high}


@dataclass(frozen=True, slots=True)
class Normal(Law):
    """N(mean, std^2)."""

    mean: float
    std: float

    def affine(self, scale: float, shift: float) -> Law:
        """Return the law of ``scale * x + shift``."""
        return Normal(scale * self.mean + shift, abs(scale) * self.std)

    def clamped(self, low: float, high: float) -> Law:
        """Return the law of ``min(max(x, low), high)``."""
        return ClampedNormal(self.mean, self.std, low, high) if low <= high else Constant(high)

    def fields(self, shape: tuple[int, ...]) -> Fields:
        """Return the scheme and its parameters."""
        del shape
        return {"scheme": "normal", "mean": self.mean, "std": self.std}


@dataclass(frozen=True, slots=True)
class _Bounded(Law):
    """A normal with bounds."""

    mean: float
    std: float
    low: float
    high: float

    scheme: ClassVar[str]

    def affine(self, scale: float, shift: float) -> Law:
        """Return the law of ``scale * x + shift``."""
        ends = scale * self.low + shift, scale * self.high + shift
        return type(self)(scale * self.mean + shift, abs(scale) * self.std, min(ends), max(ends))

    def fields(self, shape: tuple[int, ...]) -> Fields:
        """Return the scheme and its parameters."""
        del shape
        low, high = self.low, self.high
        if math.isinf(low):
            low = min(self.mean - _NEVER * self.std, high)
        if math.isinf(high):
            high = max(self.mean + _NEVER * self.std, low)
        return {"scheme": self.scheme, "mean": self.mean, "std": self.std, "a": low, "b": high}


@dataclass(frozen=True, slots=True)
class TruncatedNormal(_Bounded):
    """N(mean, std^2) conditioned on [low, high]."""

    scheme: ClassVar[str] = "trunc_normal"

    def clamped(self, low: float, high: float) -> Law | None:
        """Return the same law if the bounds change nothing."""
        return self if low <= self.low and self.high <= high else None


@dataclass(frozen=True, slots=True)
class ClampedNormal(_Bounded):
    """N(mean, std^2) moved into [low, high]."""

    scheme: ClassVar[str] = "clamped_normal"

    def clamped(self, low: float, high: float) -> Law | None:
        """Return the law of ``min(max(x, low), high)``; None if the bounds have nothing in common."""
        low, high = max(low, self.low), min(high, self.high)
        return replace(self, low=low, high=high) if low <= high else None


@dataclass(frozen=True, slots=True)
class InverseError(Law):
    """``scale * erfinv(u) + shift`` with u from U[low, high]: the truncated normal of timm and of older torch."""

    low: float
    high: float
    scale: float = 1.0
    shift: float = 0.0

    def affine(self, scale: float, shift: float) -> Law | None:
        """Return the law of ``scale * x + shift``."""
        if scale == 0.0:
            return Constant(shift)
        new = replace(self, scale=abs(scale) * self.scale, shift=scale * self.shift + shift)
        return new if scale > 0.0 else replace(new, low=-self.high, high=-self.low)

    def clamped(self, low: float, high: float) -> Law | None:
        """Return the truncated normal if the bounds are not within its own, up to rounding."""
        own, std = self._truncated(), self.scale / math.sqrt(2.0)
        if math.isinf(own.low) and math.isinf(own.high) and min(own.mean - low, high - own.mean) <= _FAR * std:
            return Normal(own.mean, std).clamped(low, high)
        # Far out, U's ends are rounded to -1 and 1, and the bounds are not reached.
        if own.low < low - _TOLERANCE * std and own.mean - low <= _FAR * std:
            return None
        if own.high > high + _TOLERANCE * std and high - own.mean <= _FAR * std:
            return None
        # A bound that is given is exact; its own is computed from rounded numbers.
        ends = [
            given if abs(given - end) <= _TOLERANCE * std or math.isinf(end) else end
            for given, end in ((low, own.low), (high, own.high))
        ]
        return TruncatedNormal(own.mean, std, max(ends[0], low), min(ends[1], high))

    def fields(self, shape: tuple[int, ...]) -> Fields:
        """Return the scheme and its parameters."""
        own = self._truncated()
        if math.isinf(own.low) and math.isinf(own.high):
            return Normal(own.mean, own.std).fields(shape)
        return own.fields(shape)

    def _truncated(self) -> TruncatedNormal:
        std = self.scale / math.sqrt(2.0)
        low, high = (self.shift + std * _quantile((1.0 + end) / 2.0) for end in (self.low, self.high))
        return TruncatedNormal(self.shift, std, low, high)


@dataclass(frozen=True, slots=True)
class Orthogonal(Law):
    """``gain`` times a random matrix with orthonormal rows or columns: that of torch.nn.init.orthogonal_."""

    is_elementwise: ClassVar[bool] = False

    gain: float

    def affine(self, scale: float, shift: float) -> Law | None:
        """Return the law of ``scale * x``; None for a shift."""
        return None if shift else Orthogonal(scale * self.gain)

    def fields(self, shape: tuple[int, ...]) -> Fields | None:
        """Return the scheme and its parameters."""
        return {"scheme": "orthogonal", "gain": self.gain} if len(shape) > 1 else None


@dataclass(frozen=True, slots=True)
class Sparse(Law):
    """A normal with zeros in every column: that of torch.nn.init.sparse_."""

    is_elementwise: ClassVar[bool] = False

    sparsity: float
    std: float

    def affine(self, scale: float, shift: float) -> Law | None:
        """Return the law of ``scale * x``; None for a shift."""
        return None if shift else Sparse(self.sparsity, abs(scale) * self.std)

    def fields(self, shape: tuple[int, ...]) -> Fields | None:
        """Return the scheme and its parameters."""
        return {"scheme": "sparse", "sparsity": self.sparsity, "std": self.std} if len(shape) == 2 else None


@dataclass(frozen=True, slots=True)
class Diagonal(Law):
    """Ones on the diagonal of a matrix, or in the middle of a kernel: that of eye_ and dirac_."""

    is_elementwise: ClassVar[bool] = False

    scheme: str
    groups: int = 1
    gain: float = 1.0

    def affine(self, scale: float, shift: float) -> Law | None:
        """Return the law of ``scale * x``; None for a shift, and for a Dirac kernel."""
        if (scale, shift) == (1.0, 0.0):
            return self
        return None if shift or self.scheme == "dirac" else replace(self, gain=scale * self.gain)

    def fields(self, shape: tuple[int, ...]) -> Fields | None:
        """Return the scheme and its parameters."""
        del shape
        if self.scheme == "dirac":
            return {"scheme": "dirac", "groups": self.groups}
        return {"scheme": "eye"} if self.gain == 1.0 else {"scheme": "identity", "gain": self.gain}


def _quantile(share: float) -> float:
    """Return the z below which a share of the standard normal lies."""
    return NormalDist().inv_cdf(share) if 0.0 < share < 1.0 else math.copysign(math.inf, share - 0.5)
