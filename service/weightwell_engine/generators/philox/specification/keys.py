"""Keys: each tensor has its own key, and so its own random words.

A key is 128 bits of SHA-256 over the generator's version, the seed, the tensor's name and the stream. Shape, dtype,
law, device and order are not hashed. So a bfloat16 tensor is the rounded float32 tensor, and the old rows of an
embedding stay the same when the vocabulary grows.
"""

import struct
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple

VERSION = "philox4x32-10/1"

_PREFIX = b"weightwell/" + VERSION.encode() + b"\0"


class Stream(IntEnum):
    """The purpose of a key's words. Different purposes have different words."""

    DATA = 0  # the high 32 bits of every draw
    MASK = 1  # which elements of a sparse column are zero
    GAUSSIAN = 2  # the reflectors of an orthogonal matrix
    LOW = 3  # the low 32 bits of a draw, for float64 and for narrow windows


class Key(NamedTuple):
    """Four 32-bit integers: ``k0, k1`` are Philox's key, ``n0, n1`` the high half of its counter."""

    k0: int
    k1: int
    n0: int
    n1: int


def derive_key(seed: int, name: str, stream: Stream) -> Key:
    """Return the key of one stream of the tensor ``name``; ``seed`` is in ``[0, 2^64)``."""
    utf8 = name.encode()
    numbers = seed.to_bytes(8, "little") + len(utf8).to_bytes(4, "little")
    message = _PREFIX + numbers + utf8 + stream.to_bytes(1, "little")
    return Key(*struct.unpack_from("<4I", sha256(message).digest()))
