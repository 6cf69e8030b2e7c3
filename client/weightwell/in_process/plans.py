"""Plans of the files that answer requests. Tensors that differ only in name and seed share one plan."""

from weightwell.in_process.engines import Engines
from weightwell.in_process.specs import spec_of
from weightwell.request import Request
from weightwell_engine.parsing import DEFAULT_NAME, DEFAULT_SEED, MAX_SEED, is_name
from weightwell_engine.plan import Plan

# The number of plans that are kept, and the most characters of what a tensor is asked with: lists of values are long.
_KEPT, _LONGEST = 1024, 512


class Plans:
    """The plans of a client, and the latest plans of single tensors. Any number of threads may use it."""

    def __init__(self, engines: Engines):
        self._engines = engines
        self._latest: dict[str, Plan] = {}

    def of(self, request: Request) -> Plan:
        """Return the plan of the file that answers a request; raise the engine's errors."""
        if request.is_manifest:
            return self._new(request)
        fields = dict(request.document)
        name, seed = fields.pop("name", DEFAULT_NAME), fields.pop("seed", DEFAULT_SEED)
        asked = repr(fields)  # 1, 1.0 and True differ
        plan = self._latest.get(asked)
        if plan is not None and is_name(name) and 0 <= seed <= MAX_SEED:
            return plan.renamed(name, seed)
        plan = self._new(request)
        if len(asked) <= _LONGEST:
            if len(self._latest) >= _KEPT:
                self._latest.clear()
            self._latest[asked] = plan
        return plan

    def _new(self, request: Request) -> Plan:
        return self._engines.of().plan(spec_of(request))
