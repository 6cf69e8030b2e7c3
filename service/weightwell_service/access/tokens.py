"""Tokens: who may ask this server, and how much. The file has the SHA-256 digest of each token, not the token.

signing_key = "a long random text"     # optional: for signed addresses

[[tokens]]
name = "training"                      # shown in the log
sha256 = "64 hexadecimal digits"
max_bytes = 100_000_000_000            # optional: the largest file
max_responses = 64                     # optional: answers at once
bytes_per_day = 10_000_000_000_000     # optional
max_tensors = 10_000                   # optional: tensors of a file
max_cpu_seconds = 60                   # optional: for drawing one answer, by estimate
generators = ["philox"]                # optional: those that it may use
share = 3                              # optional: turns in a round of the scheduler, 1 to 100
priority = "batch"                     # optional: its requests wait while those of others wait
"""

import tomllib
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from weightwell_engine.spec import GENERATORS
from weightwell_service.access.clients import Client
from weightwell_service.access.costs import Costs

# The most turns in a round: some 0.3 s of a thread, in which the others wait.
MAX_SHARE = 100


class InvalidTokens(ValueError):
    """The file of tokens cannot be used. The message has its path and the field, and no value of a field."""


class _Model(BaseModel):
    # Values are secrets, so that no message has them.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Token(_Model):
    """One token: its name and digest, and the limits of those who use it; None is no limit of its own.

    ``max_responses``: answers at once. ``bytes_per_day``: bytes of all answers in a day of UTC. ``share`` and
    ``priority``: its turns in the scheduler. The other limits are those of ``Costs``, for each request.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    max_bytes: PositiveInt | None = None
    max_responses: PositiveInt | None = None
    bytes_per_day: PositiveInt | None = None
    max_tensors: PositiveInt | None = None
    max_cpu_seconds: Annotated[PositiveFloat | None, Field(allow_inf_nan=False)] = None
    generators: Annotated[list[Literal[*GENERATORS]] | None, Field(min_length=1)] = None  # type: ignore[valid-type]
    share: Annotated[int, Field(ge=1, le=MAX_SHARE)] = 1
    priority: Literal["normal", "batch"] = "normal"

    def client(self, general: Costs) -> Client:
        """Return the client that has this token, on a server with ``general`` limits of every request."""
        own = {
            "max_bytes": self.max_bytes,
            "max_tensors": self.max_tensors,
            "max_cpu_seconds": self.max_cpu_seconds,
            "generators": frozenset(self.generators) if self.generators else None,
        }
        return Client(
            "token",
            self.name,
            max_responses=self.max_responses,
            bytes_per_day=self.bytes_per_day,
            share=self.share,
            batch=self.priority == "batch",
            costs=Costs.of(f"the token {self.name} may have", own).and_those_of(general),
        )


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
    "max_tensors": "a positive integer",
    "max_cpu_seconds": "a positive number",
    "generators": f"a list of at least one of {', '.join(GENERATORS)}",
    "share": f"an integer from 1 to {MAX_SHARE}",
    "priority": "normal or batch",
}

# Where a field belongs that is in the wrong table.
_PLACES = {"signing_key": "before the first [[tokens]]"} | dict.fromkeys(Token.model_fields, "below a line [[tokens]]")


class Tokens:
    """All tokens of a file. ``signing_key``: the secret of signed addresses; None if there are none."""

    def __init__(self, tokens: Iterable[Token], signing_key: bytes | None = None, general: Costs | None = None):
        self.signing_key = signing_key
        clients = [(bytes.fromhex(token.sha256), token.client(general or Costs())) for token in tokens]
        self._clients = tuple(clients)
        self._by_name = {client.name: client for _, client in clients}

    @classmethod
    def read(cls, path: Path, general: Costs | None = None) -> "Tokens":
        """Read a file; raise ``InvalidTokens``. ``general``: the limits of every request, without a token too."""
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
            names = [str(each) for each in first["loc"] if not isinstance(each, int)]
            expected = (_PLACES if first["type"] == "extra_forbidden" else _EXPECTED).get(
                names[-1], "absent: there is no such field"
            )
            raise InvalidTokens(f"{path}: {field} must be {expected}") from None
        for field in ("name", "sha256"):
            value, count = Counter(getattr(token, field) for token in file.tokens).most_common(1)[0]
            if count > 1:
                named = f" {value!r}" if field == "name" else ""
                raise InvalidTokens(f"{path}: {count} tokens have the same {field}{named}; each needs its own")
        return cls(file.tokens, file.signing_key.encode() if file.signing_key else None, general)

    def find(self, token: bytes) -> Client | None:
        """Return the client that has a token, or None.

        Its digest is compared with every digest, each time in constant time. So the time does not depend on the token:
        not on how much of it is right, and not on which of the tokens it is.
        """
        digest, found = sha256(token).digest(), None
        for each, client in self._clients:
            if compare_digest(each, digest):
                found = client
        return found

    def named(self, name: str) -> Client | None:
        """Return the client of the token with a name, or None."""
        return self._by_name.get(name)
