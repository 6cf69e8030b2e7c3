"""Costs: what one request may cost, by the settings of a server and by its token."""

from dataclasses import dataclass, fields
from typing import Any, Generic, Self, TypeVar

from weightwell_engine.exceptions import TooLarge
from weightwell_engine.plan import Plan
from weightwell_engine.spec import Spec
from weightwell_service.exceptions import NotAllowed

T = TypeVar("T")

# A request is ended when it has used this many times the CPU seconds of its limit. The limit itself is for estimates,
# which are those of a usual processor: a slower one, or one that is shared, needs more.
TOLERANCE = 2


@dataclass(frozen=True, slots=True)
class Limit(Generic[T]):
    """A limit: its value, and who has set it, such as ``the token training may have``. ``name`` is its setting."""

    value: T
    owner: str
    name: str

    def __str__(self) -> str:
        value = sorted(self.value) if isinstance(self.value, frozenset) else [self.value]
        shown = ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
        return f"{self.owner} {shown} ({self.name})"


@dataclass(frozen=True, slots=True)
class Costs:
    """The limits of one request; None is no limit.

    ``max_bytes``: bytes of all tensors of a file. ``max_tensors``: tensors of a file. ``max_cpu_seconds``: CPU seconds
    for drawing one answer, by the estimate of the scheduler. ``generators``: their names.
    """

    max_bytes: Limit[int] | None = None
    max_tensors: Limit[int] | None = None
    max_cpu_seconds: Limit[float] | None = None
    generators: Limit[frozenset[str]] | None = None

    @classmethod
    def of(cls, owner: str, limits: dict[str, Any], prefix: str = "") -> Self:
        """Return the costs with the limits of an owner, by their names; None is no limit."""
        return cls(
            **{
                field: Limit(value, owner, f"{prefix}{field.upper()}" if prefix else field)
                for field, value in limits.items()
                if value is not None
            }
        )

    def and_those_of(self, other: Self) -> Self:
        """Return the costs that both allow: the lower limit of each pair."""

        def lower(field: str) -> Any:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine is None or theirs is None:
                return mine or theirs
            return theirs if theirs.value < mine.value else mine

        return type(self)(**{each.name: lower(each.name) for each in fields(self)})

    def check_spec(self, spec: Spec) -> None:
        """Raise ``TooLarge`` or ``NotAllowed`` for a spec that is beyond a limit, before it is planned."""
        self._check(len(spec.tensors), spec.generator)

    def check_plan(self, plan: Plan) -> None:
        """Raise ``TooLarge`` or ``NotAllowed`` for a file that is beyond a limit, for any part of it."""
        self._check(len(plan.tensors), plan.generator)
        if (limit := self.max_bytes) is not None and plan.data_nbytes > limit.value:
            raise TooLarge(
                f"the file would hold {plan.data_nbytes} bytes of tensors, and {limit}; request a slice, or fewer "
                "tensors at once"
            )

    def _check(self, tensors: int, generator: str) -> None:
        if (allowed := self.generators) is not None and generator not in allowed.value:
            raise NotAllowed(f"the spec asks for generator={generator}, and {allowed}; use one of these")
        if (limit := self.max_tensors) is not None and tensors > limit.value:
            raise TooLarge(f"the file has {tensors} tensors, and {limit}; split the manifest")

    def check_seconds(self, seconds: float, what: str, cure: str) -> None:
        """Raise ``TooLarge`` for an estimate of more CPU seconds than allowed; say ``what`` needs them, and a cure."""
        if (limit := self.max_cpu_seconds) is not None and seconds > limit.value:
            raise TooLarge(f"{what} needs about {seconds:.3g} CPU seconds, and {limit}; {cure}")

    def check_used(self, seconds: float) -> None:
        """Raise ``TooLarge`` if a request has used more CPU seconds than its limit, with ``TOLERANCE``."""
        if (limit := self.max_cpu_seconds) is not None and seconds > TOLERANCE * limit.value:
            raise TooLarge(
                f"the request was ended after {seconds:.3g} CPU seconds, {TOLERANCE} times the limit: {limit}; request "
                "less at once"
            )
