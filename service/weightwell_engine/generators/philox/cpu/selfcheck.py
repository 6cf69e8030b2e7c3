"""The self-check: a few known answers, compared before the first number is handed out.

They go through every kernel, of the CPU and of the GPU. A fused multiply-add, another rounding mode, a compiler's
mistake: all of them show, and then this generator refuses to work on this machine. It never gives other numbers.
"""

from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from threading import Lock

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.exceptions import GeneratorUnsound
from weightwell_engine.generators.philox.cpu import laws as cpu
from weightwell_engine.laws import Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

SEED, NAME = 20260101, "selfcheck"
_FAR = Runs(first=(1 << 40) + 3, length=97, stride=1000, count=50)
_WHOLE = Runs(first=0, length=64 * 48, stride=0, count=1)
_MATRIX = Runs(first=0, length=96 * 80, stride=0, count=1)

# The first 16 digits of the SHA-256 of the elements, little-endian; tests compare them with the reference.
KNOWN_ANSWERS: tuple[tuple[Law, str, Runs, str], ...] = (
    (Uniform(-0.1, 0.3), "float32", _FAR, "72dde531232249ac"),
    (Normal(0.0, 0.02), "float32", _FAR, "81a9bedbc78c4ae4"),
    (TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float32", _FAR, "7cd8f4180870b89a"),
    (TruncatedNormal(0.0, 1.0, 3.0, 4.0), "float32", _FAR, "f64bf225171bfb69"),
    (Normal(0.0, 0.02), "bfloat16", _FAR, "463faab57bfcbbc5"),
    (Normal(0.0, 1e-5), "float16", _FAR, "31333306ddeaa76f"),
    (Normal(0.0, 0.02), "float8_e4m3fn", _FAR, "e8983179404bf6a1"),
    (Uniform(-1e-4, 1e-4), "float8_e5m2", _FAR, "43ea0b5c78bb7802"),
    (Uniform(-0.1, 0.3), "float64", _FAR, "7a8ad642dad9828f"),
    (Normal(0.0, 0.02), "float64", _FAR, "2cbc7e70dc59047f"),
    (TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float64", _FAR, "39d3f932a4931601"),
    (TruncatedNormal(0.0, 1.0, -0.001, 0.002), "float64", _FAR, "30539c6f4c994a6d"),
    (Sparse(64, 48, 20, 0.01), "float32", _WHOLE, "dd29e568639f6ef2"),
    (Sparse(64, 48, 50, 0.01), "float32", _WHOLE, "b4cc8f0829f91f80"),
    (Sparse(64, 48, 50, 0.01), "bfloat16", _WHOLE, "c6810ea6ab9f67ae"),
    (Sparse(64, 48, 20, 0.01), "float64", _WHOLE, "b234d484015f045d"),
    (Orthogonal(96, 80, 0.7), "float32", _MATRIX, "65ffd8c140cecd6b"),
    (Orthogonal(80, 96, 0.7), "float64", _MATRIX, "44189818be7c7aa9"),
    (Orthogonal(80, 32, 0.7, 3, 1), "bfloat16", _MATRIX, "c6005a32aad6c9c5"),
    (Orthogonal(80, 32, 0.7, 3, 1), "float8_e4m3fn", _MATRIX, "78d4817ec60e0340"),
    (Lattice(0.3, 5, (48, 1), (60, 3)), "float32", _WHOLE, "f34c19cbd7f7fa27"),
    (Lattice(0.3, 5, (48, 1), (60, 3)), "float64", _WHOLE, "4b836ad79b94f758"),
    (Lattice(0.3, 5, (48, 1), (60, 3)), "float16", _WHOLE, "c582c1bb07323a4c"),
    (Lattice(0.3, 5, (48, 1), (60, 3)), "float8_e5m2", _WHOLE, "15bad6333dff475e"),
)

_lock = Lock()


def require_sound() -> None:
    """Check the CPU's answers, once in a process; raise ``GeneratorUnsound`` if any differs."""
    with _lock:
        _check()


@cache
def _check() -> None:
    compare(digest)
    compare(partial(digest, remember=False), Sparse)


def digest(law: Law, dtype: str, runs: Runs, *, remember: bool = True) -> str:
    """Return the digest of some elements as the CPU draws them, with what is zero remembered or not."""
    out = bytearray(runs.size * DTYPES[dtype].itemsize)
    cpu.prepare(law, DTYPES[dtype], SEED, NAME, remember=remember).fill(runs, memoryview(out))
    return digest_of(out)


def digest_of(elements: bytearray | memoryview) -> str:
    """Return the first 16 digits of the SHA-256 of elements."""
    return sha256(elements).hexdigest()[:16]


def compare(digest: Callable[[Law, str, Runs], str], kind: type = object) -> None:
    """Compare a device's digests with the known answers to a kind of law; raise ``GeneratorUnsound`` if any differs."""
    for law, dtype, runs, expected in KNOWN_ANSWERS:
        if not isinstance(law, kind):
            continue
        got = digest(law, dtype, runs)
        if got != expected:
            raise GeneratorUnsound(
                f"the philox generator drew {dtype} elements of {law} with digest {got} where {expected} is expected: "
                "its arithmetic is not that of IEEE 754 on this machine. Nothing will be drawn with it. Remove a stale "
                "compile cache (NUMBA_CACHE_DIR, TRITON_CACHE_DIR), or report the processor or GPU and the versions of "
                "numba and llvmlite, or of triton"
            )


def warm_up() -> None:
    """Compile every kernel, or load it from the cache, and check it; raise ``GeneratorUnsound``."""
    require_sound()
