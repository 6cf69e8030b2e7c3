"""A cache of plans: several ranges of a file, or repeated requests, are planned once."""

from collections import OrderedDict
from threading import Lock

from weightwell_engine.laws import Values
from weightwell_engine.plan import Plan

# Approximate bytes of a planned tensor in memory, without its part of the header.
_TENSOR = 1000

# Approximate bytes of a given number in memory: a Python float in a tuple.
_VALUE = 32


class PlanCache:
    """A cache of plans by query, with the most recently used ones that fit into ``nbytes``, by estimate.

    Any number of threads may use it.
    """

    def __init__(self, nbytes: int = 2**26):
        self._limit = nbytes
        self._used = 0
        self.hits = self.misses = 0
        self._plans: OrderedDict[bytes, tuple[Plan, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, query: bytes) -> Plan | None:
        """Return the plan of a query, or None."""
        with self._lock:
            if query not in self._plans:
                self.misses += 1
                return None
            self.hits += 1
            self._plans.move_to_end(query)
            return self._plans[query][0]

    @property
    def used(self) -> int:
        """Bytes in use, by estimate."""
        return self._used

    def put(self, query: bytes, plan: Plan) -> None:
        """Add a plan, and evict the least recently used ones that no longer fit."""
        nbytes = len(query) + plan_nbytes(plan)
        if nbytes > self._limit:
            return
        with self._lock:
            _, before = self._plans.pop(query, (plan, 0))
            self._plans[query] = plan, nbytes
            self._used += nbytes - before
            while self._used > self._limit:
                _, (_, freed) = self._plans.popitem(last=False)
                self._used -= freed


def plan_nbytes(plan: Plan) -> int:
    """Estimate the bytes of a plan in memory."""
    parts = sum(len(tensor.parts) for tensor in plan.tensors if tensor.parts)
    values = sum(_VALUE * len(each.law.values) for each in plan.tensors if isinstance(each.law, Values))
    # The header, and the spec as text, which is most of it.
    return 2 * len(plan.header) + _TENSOR * (len(plan.tensors) + 2 * parts + 1) + values
