from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.generators.philox.specification.keys import Key, Stream, derive_key

seeds = st.integers(0, 2**64 - 1)


def test_a_key_is_the_start_of_a_hash_of_version_seed_name_and_stream() -> None:
    message = (
        b"weightwell/philox4x32-10/1\0" + bytes([42, 0, 0, 0, 0, 0, 0, 0]) + b"\x03\0\0\0" + "wö".encode() + b"\x01"
    )
    digest = sha256(message).digest()
    assert derive_key(42, "wö", Stream.MASK) == tuple(
        int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12)
    )


def test_a_known_key() -> None:
    assert derive_key(0, "weight", Stream.DATA) == Key(0x73D38003, 0x9DEB2D43, 0x78AA13A9, 0x7AFC4BD0)


def test_streams_keep_their_numbers_for_ever() -> None:
    assert {stream.name: stream.value for stream in Stream} == {"DATA": 0, "MASK": 1, "GAUSSIAN": 2, "LOW": 3}


@given(seed=seeds, other=seeds, name=st.text(max_size=20), another=st.text(max_size=20))
def test_different_seeds_names_and_streams_have_different_keys(seed: int, other: int, name: str, another: str) -> None:
    identities = {(s, n, stream) for s in (seed, other) for n in (name, another) for stream in Stream}
    assert len({derive_key(*identity) for identity in identities}) == len(identities)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_an_error(seed: int) -> None:
    with pytest.raises(OverflowError):
        derive_key(seed, "weight", Stream.DATA)
