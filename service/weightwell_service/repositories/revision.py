"""Revisions: which weights a repository has. A revision is a seed, and a dtype if it is not the manifest's.

    main, HEAD           seed 0
    seed-42              seed 42
    seed-42-bfloat16     seed 42, all floating-point tensors in bfloat16

A commit says the same in 40 hexadecimal digits: 16 of the seed, 2 of the dtype, 22 of a digest of the repository. So
any replica with the same repository answers any commit, and nothing is stored.
"""

import re
from dataclasses import dataclass

from weightwell_engine.dtypes import FLOATS

# The number of each dtype in a commit; 0 is the manifest's own. Numbers are never reused.
DTYPES = {None: 0, "float64": 1, "float32": 2, "bfloat16": 3, "float16": 4, "float8_e4m3fn": 5, "float8_e5m2": 6}
_BY_NUMBER = {number: name for name, number in DTYPES.items()}

# Digits of the digest of a repository in a commit.
DIGEST = 22

_NAME = re.compile(r"seed-(?P<seed>0|[1-9]\d{0,19})(-(?P<dtype>[a-z0-9_]+))?", re.ASCII)
_COMMIT = re.compile(rf"(?P<seed>[0-9a-f]{{16}})(?P<dtype>[0-9a-f]{{2}})(?P<digest>[0-9a-f]{{{DIGEST}}})", re.ASCII)

FORMS = "main, seed-42, seed-42-bfloat16 (a seed in [0, 2^64 - 1] and a floating-point dtype), or a commit"


@dataclass(frozen=True, slots=True)
class Revision:
    """A seed in [0, 2^64 - 1], and the dtype of all floating-point tensors; None for those of the manifest."""

    seed: int = 0
    dtype: str | None = None

    @classmethod
    def of(cls, name: str, digest: str) -> "Revision | None":
        """Read a name, or a commit of the repository with this digest; None if it is neither."""
        if name in {"main", "HEAD"}:
            return cls()
        if commit := _COMMIT.fullmatch(name):
            number = int(commit["dtype"], 16)
            known = commit["digest"] == digest and number in _BY_NUMBER
            return cls(int(commit["seed"], 16), _BY_NUMBER[number]) if known else None
        found = _NAME.fullmatch(name)
        if not found or int(found["seed"]) >= 2**64 or (found["dtype"] or "float32") not in FLOATS:
            return None
        return cls(int(found["seed"]), found["dtype"])

    def commit(self, digest: str) -> str:
        """Return the commit of this revision of the repository with this digest."""
        return f"{self.seed:016x}{DTYPES[self.dtype]:02x}{digest}"

    @property
    def name(self) -> str:
        """The name: ``main``, ``seed-42``, ``seed-42-bfloat16``."""
        if self == Revision():
            return "main"
        return f"seed-{self.seed}" + (f"-{self.dtype}" if self.dtype else "")


def digest_in(name: str) -> str | None:
    """Return the digest of a repository in a commit; None if the name is not a commit."""
    commit = _COMMIT.fullmatch(name)
    return commit["digest"] if commit else None
