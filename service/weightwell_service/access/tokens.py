"""Tokens: who may ask this server, and how much. The file has the SHA-256 digest of each token, not the token.

signing_key = "a long random text"     # optional: for signed addresses

[[tokens]]
name = "training"                      # shown in the log
sha256 = "64 hexadecimal digits"
max_bytes = 100_000_000_000            # optional: the largest file
max_responses = 64                     # optional: answers at once
bytes_per_day = 10_000_000_000_000     # optional
"""

import tomllib
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError


class InvalidTokens(ValueError):
    """The file of tokens cannot be used. The message has its path and the field, and no value of a field."""


class _Model(BaseModel):
    # Values are secrets, so that no message has them.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Token(_Model):
    """One token: its name and digest, and the limits of those who use it; None is no limit of its own.

    ``max_bytes``: bytes of a file. ``max_responses``: answers at once. ``bytes_per_day``: bytes of all answers in a day
    of UTC.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    max_bytes: PositiveInt | None = None
    max_responses: PositiveInt | None = None
    bytes_per_day: PositiveInt | None = None


class _File(_Model):
    tokens: Annotated[list[Token], Field(min_length=1)]
    signing_key: Annotated[str, Field(min_length=32)] | None = None


# What each field must be, for messages. pydantic's own messages name patterns.
_EXPECTED = {
    "tokens": "a list of tables, [[tokens]], with at least one",
    "signing_key": "a text of at least 32 characters",
    "name": "1 to 64 letters, digits, dots, underscores and hyphens, the first a letter or a digit",
    "sha256": "64 hexadecimal digits in lower case, the SHA-256 digest of the token",
    "max_bytes": "a positive integer",
    "max_responses": "a positive integer",
    "bytes_per_day": "a positive integer",
}

# Where a field belongs that is in the wrong table.
_PLACES = {"signing_key": "before the first [[tokens]]"} | dict.fromkeys(Token.model_fields, "below a line [[tokens]]")


class Tokens:
    """All tokens of a file. ``signing_key``: the secret of signed addresses; None if there are none."""

    def __init__(self, tokens: Iterable[Token], signing_key: bytes | None = None):
        self.signing_key = signing_key
        self._by_name = {token.name: token for token in tokens}
        self._by_digest = {token.sha256: token for token in self._by_name.values()}

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Read a file; raise ``InvalidTokens``."""
        try:
            file = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise InvalidTokens(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidTokens(f"{path}: the file is not in UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise InvalidTokens(f"{path}: {error}") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            expected = (_PLACES if first["type"] == "extra_forbidden" else _EXPECTED).get(
                str(first["loc"][-1]), "absent: there is no such field"
            )
            raise InvalidTokens(f"{path}: {field} must be {expected}") from None
        for field in ("name", "sha256"):
            value, count = Counter(getattr(token, field) for token in file.tokens).most_common(1)[0]
            if count > 1:
                named = f" {value!r}" if field == "name" else ""
                raise InvalidTokens(f"{path}: {count} tokens have the same {field}{named}; each needs its own")
        return cls(file.tokens, file.signing_key.encode() if file.signing_key else None)

    def find(self, token: bytes) -> Token | None:
        """Return the entry of a token, or None.

        Its digest is looked up, so the time does not depend on how much of a wrong token is right.
        """
        return self._by_digest.get(sha256(token).hexdigest())

    def named(self, name: str) -> Token | None:
        """Return the entry with a name, or None."""
        return self._by_name.get(name)
