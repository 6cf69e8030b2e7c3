from collections import Counter

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.generator import Laws
from weightwell_engine.laws import Law, Normal, Orthogonal
from weightwell_engine.plan import PlannedTensor
from weightwell_engine.regions import Region


def tensor(order: int, law: Law) -> PlannedTensor:
    return PlannedTensor(f"t{order}", 0, DTYPES["float32"], law, Region.whole((2, 2)), order)


NORMALS = [tensor(order, Normal(0.0, 1.0)) for order in range(300)]
MATRICES = [tensor(order, Orthogonal(2, 2, 1.0)) for order in range(3)]


def counted() -> tuple[Laws[str], Counter[str]]:
    prepared: Counter[str] = Counter()

    def prepare(tensor: PlannedTensor) -> str:
        prepared[tensor.name] += 1
        return tensor.name

    return Laws(prepare), prepared


def test_a_law_is_prepared_once_while_it_is_kept() -> None:
    laws, prepared = counted()
    for _ in range(3):
        assert [laws.of(each) for each in NORMALS[:100]] == [each.name for each in NORMALS[:100]]
    assert set(prepared.values()) == {1}


def test_the_least_recently_used_laws_are_let_go() -> None:
    laws, prepared = counted()
    for each in NORMALS:
        laws.of(NORMALS[0])
        laws.of(each)
    laws.of(NORMALS[1])
    laws.of(NORMALS[-1])
    assert (prepared["t0"], prepared["t1"], prepared["t299"]) == (1, 2, 1)


def test_only_two_matrices_are_kept() -> None:
    laws, prepared = counted()
    for each in (*MATRICES, MATRICES[0], MATRICES[2]):
        laws.of(each)
    assert prepared == {"t0": 2, "t1": 1, "t2": 1}


def test_a_cleared_law_is_prepared_again() -> None:
    laws, prepared = counted()
    for _ in range(2):
        laws.of(NORMALS[0])
        laws.of(MATRICES[1])
        laws.clear()
    assert prepared == {"t0": 2, "t1": 2}
