"""Gains: floats that keep the other numbers of their answer."""

from collections.abc import Mapping
from typing import Any

from weightwell.literals import Stability


class Gain(float):
    """The gain of a nonlinearity: a ``float``, with the other fields of the answer of ``/gain``.

    ``source="quadrature"`` says what the gain does in a deep stack of layers: ``slope``, ``stability``, ``chi_1`` and
    ``edge_of_chaos`` (docs/gains.md, "Deep stacks"). They are None for ``source="torch"``. The result of arithmetic is
    a plain ``float``, and so is ``float(gain)``, for formats that refuse other classes: ``yaml.safe_dump``, or a
    checkpoint that ``torch.load`` reads with ``weights_only=True``.
    """

    __slots__ = ("answer",)

    answer: Mapping[str, Any]
    """All fields of the answer, such as ``formula``, ``reference``, ``mean`` and ``std_ratio``."""

    def __new__(cls, value: float, answer: Mapping[str, Any]) -> "Gain":
        """Return a gain with the fields of its answer."""
        made = super().__new__(cls, value)
        made.answer = answer
        return made

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        """Return the class and the arguments of a copy, and of an unpickled gain, for every protocol."""
        return type(self), (float(self), self.answer)

    @property
    def slope(self) -> float | None:
        """The slope of the variance map at its fixed point: every layer multiplies a deviation by it."""
        return self._number("slope")

    @property
    def stability(self) -> Stability | None:
        """Stable if the slope is below 1, unstable if it is above, marginal at 1."""
        found: Stability | None = self.answer.get("stability")
        return found

    @property
    def chi_1(self) -> float | None:
        """The factor of every layer on the squared gradient; None for a function with jumps, where it is infinite."""
        return self._number("chi_1")

    @property
    def edge_of_chaos(self) -> Mapping[str, float | None] | None:
        """A pair of variances with chi_1 = 1, or None: ``weight_variance``, ``bias_variance``, ``q`` and ``slope``."""
        found: Mapping[str, float | None] | None = self.answer.get("edge_of_chaos")
        return found

    def _number(self, name: str) -> float | None:
        found: float | None = self.answer.get(name)
        return found
