import json

from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Plan
from weightwell_service.plan_cache import PlanCache

ENGINE = Engine(Cpu(), threads=1)


def plan(seed: int, tensors: int = 1) -> Plan:
    ones = {"shape": [3], "scheme": "ones", "seed": seed}
    return ENGINE.plan(read_document(json.dumps({"tensors": {f"t{i}": ones for i in range(tensors)}}).encode()))


def test_a_plan_is_found_by_its_query_and_by_no_other() -> None:
    recent = PlanCache()
    one = plan(1)
    recent.put(b"one", one)
    assert recent.get(b"one") is one
    assert recent.get(b"two") is None


def test_the_least_recently_used_plans_make_room() -> None:
    recent = PlanCache(nbytes=3 * 3000)  # a plan of one tensor is 2000 and its header
    for query in (b"a", b"b", b"c"):
        recent.put(query, plan(1))
    assert recent.get(b"a") is not None
    recent.put(b"d", plan(1))
    assert recent.get(b"b") is None
    assert recent.get(b"a") is not None
    assert recent.get(b"d") is not None


def test_a_plan_that_is_put_again_takes_its_room_once() -> None:
    recent = PlanCache(nbytes=3 * 3000)
    for _ in range(100):
        recent.put(b"a", plan(1))
    recent.put(b"b", plan(2))
    assert recent.get(b"a") is not None
    assert recent.get(b"b") is not None


def test_a_plan_larger_than_all_room_is_not_kept() -> None:
    recent = PlanCache(nbytes=5000)
    recent.put(b"small", plan(1))
    recent.put(b"large", plan(1, tensors=10))
    assert recent.get(b"large") is None
    assert recent.get(b"small") is not None
