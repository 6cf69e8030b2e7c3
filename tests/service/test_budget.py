import pytest

from weightwell_engine.exceptions import Busy, TooLarge
from weightwell_service.budget import MemoryBudget


def test_more_memory_than_there_ever_is_is_too_large() -> None:
    budget = MemoryBudget(100)
    budget.check(100)
    with pytest.raises(TooLarge, match="needs 101 bytes of memory, and this server allows 100"):
        budget.check(101)


def test_memory_in_use_is_busy_and_free_again_afterwards() -> None:
    budget = MemoryBudget(100)
    with budget.reserve(60):
        with budget.reserve(40), pytest.raises(Busy), budget.reserve(1):
            pass
        with pytest.raises(Busy), budget.reserve(41):
            pass
        with budget.reserve(40):
            assert budget.used == 100
    assert budget.used == 0


def test_memory_is_free_again_after_an_error() -> None:
    budget = MemoryBudget(100)
    with pytest.raises(ZeroDivisionError), budget.reserve(100):
        _ = 1 / 0
    with budget.reserve(100):
        assert budget.used == 100


def test_nothing_can_always_be_reserved() -> None:
    budget = MemoryBudget(1)
    with budget.reserve(1), budget.reserve(0):
        assert budget.used == 1
