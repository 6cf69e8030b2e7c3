from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.laws import Lattice


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    first, inner, rows, points, gap = (draw(st.integers(low, 6)) for low in (0, 1, 1, 0, 1))
    return Lattice(1.0, first, (max(points - 1, 0) * inner + gap, inner), (rows, points))


def points(lattice: Lattice) -> list[int]:
    """Return every point of a lattice, by its definition."""
    (outer, inner), (rows, columns) = lattice.strides, lattice.counts
    return [lattice.first + i * outer + j * inner for i in range(rows) for j in range(columns)]


@given(lattices(), st.integers(0, 100), st.integers(0, 100))
def test_the_points_within_an_interval_are_those_of_the_definition(lattice: Lattice, start: int, stop: int) -> None:
    found = [point for progression in lattice.within(start, stop) for point in progression]
    assert found == [point for point in points(lattice) if start <= point < stop]


@given(lattices(), st.integers(0, 100), st.integers(0, 100))
def test_a_row_of_a_lattice_is_one_progression(lattice: Lattice, start: int, stop: int) -> None:
    progressions = list(lattice.within(start, stop))
    assert len(progressions) <= lattice.counts[0]
    assert all(progressions)


def test_points_far_along_an_enormous_lattice_are_found_at_once() -> None:
    identity = Lattice(1.0, 0, (2**80, 2**40 + 1), (1, 2**40))
    assert list(identity.within(2**79, 2**79 + 2**40)) == [range(2**79 + 2**39, 2**79 + 2**39 + 2**40 + 1, 2**40 + 1)]
