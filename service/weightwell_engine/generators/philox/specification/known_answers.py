"""Known answers: digests of elements from the reference. Every implementation is checked with them before use.

A fused multiply-add, another rounding mode or a compiler error gives another digest. Then the generator refuses to work
on this machine.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from weightwell_engine.exceptions import GeneratorUnsound
from weightwell_engine.laws import (
    Lattice,
    Law,
    Normal,
    Orthogonal,
    PowersOfTwo,
    Sparse,
    TruncatedNormal,
    Uniform,
    UniformIntegers,
)
from weightwell_engine.regions import Runs

SEED, NAME = 20260101, "selfcheck"
# Short runs far apart, and a long run. The long run begins inside a Philox block, and the counter's high half changes
# inside it.
_ANYWHERE = Runs(first=(1 << 40) + 3, length=97, stride=1000, count=50), Runs((1 << 40) - 4099, 8300, 0, 1)
_WHOLE = (Runs(first=0, length=64 * 48, stride=0, count=1),)
_MATRIX = (Runs(first=0, length=96 * 80, stride=0, count=1),)
# In bytes of two elements.
_FOURS = (Runs(first=0, length=80 * 48, stride=0, count=1),)
_FOURS_SPARSE = (Runs(first=0, length=32 * 48, stride=0, count=1),)

Draw = Callable[[Law, str, Runs], bytearray | memoryview]
"""Draws the elements of runs, for a law and a dtype, in the tensor ``NAME`` with the seed ``SEED``."""


class KnownAnswer(NamedTuple):
    """A law in a dtype, and the first 16 digits of the SHA-256 of some of its elements, little-endian."""

    law: Law
    dtype: str
    runs: tuple[Runs, ...]
    digest: str

    def digest_by(self, draw: Draw) -> str:
        """Return the digest of the elements that an implementation draws."""
        digest = sha256()
        for runs in self.runs:
            digest.update(draw(self.law, self.dtype, runs))
        return digest.hexdigest()[:16]

    def require(self, draw: Draw) -> None:
        """Raise ``GeneratorUnsound`` if an implementation draws anything else."""
        if (got := self.digest_by(draw)) != self.digest:
            raise GeneratorUnsound(
                f"the philox generator drew {self.dtype} elements of {self.law} with digest {got}, expected "
                f"{self.digest}: the arithmetic on this machine does not follow IEEE 754. The generator "
                "is disabled. Remove the compiled kernels (NUMBA_CACHE_DIR, TRITON_CACHE_DIR) and start again. If that "
                "does not help, report the processor or GPU and the versions of numba and llvmlite, or of triton"
            )


KNOWN_ANSWERS = (
    KnownAnswer(Uniform(-0.1, 0.3), "float32", _ANYWHERE, "2509569170fe83ea"),
    KnownAnswer(Normal(0.0, 0.02), "float32", _ANYWHERE, "75214ade543ae831"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float32", _ANYWHERE, "1306ea69b03a8b36"),
    KnownAnswer(Uniform(-0.1, 0.3), "bfloat16", _ANYWHERE, "6b36e5feca9a5874"),
    KnownAnswer(Normal(0.0, 0.02), "bfloat16", _ANYWHERE, "ced7de7bfc06eb7a"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "bfloat16", _ANYWHERE, "93d7c965fa6b030d"),
    KnownAnswer(Uniform(-0.1, 0.3), "float16", _ANYWHERE, "000a0798bb2787f0"),
    KnownAnswer(Normal(0.0, 1e-05), "float16", _ANYWHERE, "3b1692cb7ab2066b"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float16", _ANYWHERE, "bedc80aa9c69d6be"),
    KnownAnswer(Uniform(-0.1, 0.3), "float8_e4m3fn", _ANYWHERE, "d035a3837d0b75b2"),
    KnownAnswer(Normal(0.0, 0.02), "float8_e4m3fn", _ANYWHERE, "e4c73f29d86d9437"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float8_e4m3fn", _ANYWHERE, "e53dcdb80aa4d68c"),
    KnownAnswer(Uniform(-0.0001, 0.0001), "float8_e5m2", _ANYWHERE, "875172474e07e9f0"),
    KnownAnswer(Normal(0.0, 0.02), "float8_e5m2", _ANYWHERE, "de17503f3af781c2"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float8_e5m2", _ANYWHERE, "f2c5039e73e5dc3c"),
    KnownAnswer(Uniform(-0.1, 0.3), "float64", _ANYWHERE, "084bc382c0f1ca5f"),
    KnownAnswer(Normal(0.0, 0.02), "float64", _ANYWHERE, "477feb13ac8496ef"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float64", _ANYWHERE, "bd04cd66c33cb9f8"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, 3.0, 4.0), "float32", _ANYWHERE, "e992b932f36d3173"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -0.001, 0.002), "float64", _ANYWHERE, "a8e61d2890b3bcd5"),
    KnownAnswer(Sparse(64, 48, 20, 0.01), "float32", _WHOLE, "dd29e568639f6ef2"),
    KnownAnswer(Sparse(64, 48, 50, 0.01), "float32", _WHOLE, "b4cc8f0829f91f80"),
    KnownAnswer(Sparse(64, 48, 50, 0.01), "bfloat16", _WHOLE, "c6810ea6ab9f67ae"),
    KnownAnswer(Sparse(64, 48, 20, 0.01), "float16", _WHOLE, "0586604a19cd0a57"),
    KnownAnswer(Sparse(64, 48, 50, 0.01), "float8_e4m3fn", _WHOLE, "99becfead1ff92bd"),
    KnownAnswer(Sparse(64, 48, 20, 0.01), "float8_e5m2", _WHOLE, "dedcafbe03b5e81d"),
    KnownAnswer(Sparse(64, 48, 20, 0.01), "float64", _WHOLE, "b234d484015f045d"),
    KnownAnswer(Orthogonal(96, 80, 0.7), "float32", _MATRIX, "65ffd8c140cecd6b"),
    KnownAnswer(Orthogonal(80, 96, 0.7), "float64", _MATRIX, "44189818be7c7aa9"),
    KnownAnswer(Orthogonal(80, 32, 0.7, 3, 1), "bfloat16", _MATRIX, "c6005a32aad6c9c5"),
    KnownAnswer(Orthogonal(80, 32, 0.7, 3, 1), "float16", _MATRIX, "c645ad8a9306e5ce"),
    KnownAnswer(Orthogonal(80, 32, 0.7, 3, 1), "float8_e4m3fn", _MATRIX, "78d4817ec60e0340"),
    KnownAnswer(Orthogonal(80, 32, 0.7, 3, 1), "float8_e5m2", _MATRIX, "b989527034491760"),
    KnownAnswer(Lattice(0.3, 5, (48, 1), (60, 3)), "float32", _WHOLE, "f34c19cbd7f7fa27"),
    KnownAnswer(Lattice(0.3, 5, (48, 1), (60, 3)), "float64", _WHOLE, "4b836ad79b94f758"),
    KnownAnswer(Lattice(0.3, 5, (48, 1), (60, 3)), "float16", _WHOLE, "c582c1bb07323a4c"),
    KnownAnswer(Lattice(0.3, 5, (48, 1), (60, 3)), "float8_e5m2", _WHOLE, "15bad6333dff475e"),
    KnownAnswer(UniformIntegers(-128, 128), "int8", _ANYWHERE, "19a0b6d6483f2286"),
    KnownAnswer(UniformIntegers(-5000, 11384), "int16", _ANYWHERE, "f4cefbe2dc9d8fb7"),
    KnownAnswer(UniformIntegers(-127, 128), "int8", _ANYWHERE, "ccb120b68b152408"),
    KnownAnswer(UniformIntegers(0, 50257), "int32", _ANYWHERE, "7f5b749396819d7c"),
    KnownAnswer(UniformIntegers(-9007199254740991, 9007199254740992), "int64", _ANYWHERE, "15f7aed6fcef90a7"),
    KnownAnswer(PowersOfTwo(-10, 6), "float8_e8m0fnu", _ANYWHERE, "e70e40d0704e376e"),
    KnownAnswer(Uniform(-0.9, 5.3), "float4_e2m1fn_x2", _ANYWHERE, "ac3e3d1adcddbcc6"),
    KnownAnswer(Normal(0.0, 1.5), "float4_e2m1fn_x2", _ANYWHERE, "aead846785cdd4ef"),
    KnownAnswer(TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float4_e2m1fn_x2", _ANYWHERE, "94fbb4d74e9aacdc"),
    KnownAnswer(Orthogonal(80, 48, 9.0, 2, 1), "float4_e2m1fn_x2", _FOURS, "0fec96ad4e7862d9"),
    KnownAnswer(Sparse(64, 48, 20, 1.5), "float4_e2m1fn_x2", _FOURS_SPARSE, "565df0dd54bd273e"),
)
