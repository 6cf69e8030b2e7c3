import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.generators.philox.cpu.words import Run, fill_words
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.generators.philox.specification.words import philox, words

# Random123, tests/kat_vectors: counter, key, words after ten rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

word = st.integers(0, 2**32 - 1)
keys = st.builds(Key, word, word, word, word)


def _hex(text: str) -> list[int]:
    return [int(digits, 16) for digits in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (np.array([number], np.uint64) for number in _hex(counter))
    k0, k1 = _hex(key)
    assert [int(x[0]) for x in philox((c0, c1, c2, c3), (k0, k1))] == _hex(expected)


def test_an_index_names_a_word_of_a_block() -> None:
    indices = np.array([0, 1, 2, 3], np.uint64)
    assert words(Key(0, 0, 0, 0), indices).tolist() == _hex(KNOWN_ANSWERS[0][2])


@given(key=keys, first=st.integers(0, 2**63 - 100))
def test_the_kernel_draws_the_words_of_the_reference(key: Key, first: int) -> None:
    drawn = np.empty(99, np.uint32)
    fill_words(key, Run(first, 99, 0, 1), drawn)
    np.testing.assert_array_equal(drawn, words(key, np.arange(first, first + 99, dtype=np.uint64)))


@given(key=keys, index=st.integers(0, 2**62))
def test_a_block_beyond_32_bits_is_another_block(key: Key, index: int) -> None:
    near, far = words(key, np.array([index % 2**34, index % 2**34 + 2**34], np.uint64))
    assert near != far or words(key, np.array([index % 2**34 + 1], np.uint64)) != words(
        key, np.array([index % 2**34 + 2**34 + 1], np.uint64)
    )
