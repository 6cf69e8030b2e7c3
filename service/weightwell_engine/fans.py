"""Fan-in and fan-out: how many inputs feed an output of a layer, and how many outputs an input feeds."""

from dataclasses import dataclass
from math import prod, sqrt

from weightwell_engine.exceptions import InvalidSpec


@dataclass(frozen=True, slots=True)
class Fans:
    """The two fans of a weight, each at least 1, or None where the shape does not say and nobody said it either."""

    given_in: int | None
    given_out: int | None
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        *,
        fan_in: int | None = None,
        fan_out: int | None = None,
        groups: int = 1,
        transposed: bool = False,
    ) -> "Fans":
        """Return the fans of a weight that is laid out as torch lays it out: ``[out, in / groups, *kernel]``.

        By default they are what ``torch.nn.init._calculate_fan_in_and_fan_out`` says. Torch sees only the shape: it is
        off by a factor of ``groups`` in the fan-out of a grouped convolution (pytorch#23854), and swaps the fans of a
        transposed one (pytorch#30079), whose layout is ``[in, out / groups, *kernel]``. Saying ``groups`` and
        ``transposed`` gives the fans that the layer has; a given fan replaces what the shape says.

        Raises ``InvalidSpec`` for groups that do not divide the first dimension.
        """
        if len(shape) < 2:
            return cls(fan_in, fan_out, shape)
        if shape[0] % groups:
            raise InvalidSpec("groups", got=groups, expected=f"a divisor of the first dimension, which is {shape[0]}")
        receptive_field = prod(shape[2:])
        along_0, along_1 = shape[0] // groups * receptive_field, shape[1] * receptive_field
        inferred_in, inferred_out = (along_0, along_1) if transposed else (along_1, along_0)
        return cls(fan_in or inferred_in, fan_out or inferred_out, shape)

    @property
    def fan_in(self) -> int:
        """Number of inputs of an output; raises ``InvalidSpec`` where it is not known."""
        return self._known(self.given_in, "fan_in")

    @property
    def fan_out(self) -> int:
        """Number of outputs of an input; raises ``InvalidSpec`` where it is not known."""
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
            expected=f"2 or more dimensions, or an explicit {name}",
            detail="Fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
        )
