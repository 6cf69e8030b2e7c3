"""Fan-in and fan-out: how many inputs feed an output of a layer, and how many outputs an input feeds."""

from dataclasses import dataclass
from math import sqrt
from typing import Unpack

from weightwell_engine.axes import Axes, Names, Shape
from weightwell_engine.exceptions import InvalidSpec


@dataclass(frozen=True, slots=True)
class Fans:
    """The two fans of a weight. One is None if it was not given and the shape has too few axes to count it."""

    given_in: int | None
    given_out: int | None
    shape: Shape

    @classmethod
    def of(
        cls,
        shape: Shape,
        *,
        fan_in: int | None = None,
        fan_out: int | None = None,
        groups: int = 1,
        **names: Unpack[Names],
    ) -> "Fans":
        """Return the fans of a weight.

        ``fan_in`` is the size of the input axes times the receptive field. ``fan_out`` is the size of the output axes
        times the receptive field. Batch axes do not count. ``names`` are the arguments of ``Axes.of``. The fans equal
        those of ``jax.nn.initializers.variance_scaling`` for the same axes.

        Without ``names``, the fans equal those of ``torch.nn.init._calculate_fan_in_and_fan_out``. torch sees only the
        shape. For a grouped convolution its fan-out is too large by the factor ``groups`` (pytorch#23854). For a
        transposed convolution it exchanges the fans (pytorch#30079). ``groups`` and ``transposed`` correct this: the
        size of the output axis (the input axis if transposed) counts all channels and is divided by ``groups``. A given
        fan replaces the counted one.

        Raises ``InvalidSpec`` for names that ``Axes.of`` refuses, for groups that do not divide the channels, and for
        groups together with explicit axes.
        """
        axes = Axes.of(shape, **names)
        if axes is None:
            return cls(fan_in, fan_out, shape)
        if groups > 1 and (names.get("in_axis"), names.get("out_axis")) != (None, None):
            expected = "1 if in_axis or out_axis is given; give the fans of one group as fan_in and fan_out"
            raise InvalidSpec("groups", got=groups, expected=expected)
        inputs, outputs, field = (axes.size(each) for each in (axes.inputs, axes.outputs, axes.kernel))
        channels, at = (inputs, axes.inputs) if axes.transposed else (outputs, axes.outputs)
        if channels % groups:
            where = "the first dimension" if at == (0,) else f"the size of axis {at[0]}"
            raise InvalidSpec("groups", got=groups, expected=f"a divisor of {where}, which is {channels}")
        if axes.transposed:
            inputs //= groups
        else:
            outputs //= groups
        return cls(fan_in or inputs * field, fan_out or outputs * field, shape)

    @property
    def fan_in(self) -> int:
        """Number of inputs of an output; raises ``InvalidSpec`` if it is not known."""
        return self._known(self.given_in, "fan_in")

    @property
    def fan_out(self) -> int:
        """Number of outputs of an input; raises ``InvalidSpec`` if it is not known."""
        return self._known(self.given_out, "fan_out")

    def mode(self, name: str) -> float:
        """Return the fan that ``name`` names: ``fan_in``, ``fan_out``, ``fan_avg`` or ``fan_geo_avg``."""
        match name:
            case "fan_in":
                return self.fan_in
            case "fan_out":
                return self.fan_out
            case "fan_avg":
                return (self.fan_in + self.fan_out) / 2
            case "fan_geo_avg":
                return sqrt(self.fan_in * self.fan_out)
        raise InvalidSpec("mode", got=name, expected="fan_in, fan_out, fan_avg or fan_geo_avg")

    def _known(self, fan: int | None, name: str) -> int:
        if fan is not None:
            return fan
        raise InvalidSpec(
            "shape",
            got=list(self.shape),
            expected=f"2 or more dimensions, not counting batch_axis, or an explicit {name}",
            detail="Fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
        )
