"""Errors of the engine.

WeightwellError
 +-- InvalidSpec            a field has a value that is not allowed
 |    +-- UnsupportedSpec   every field is valid, but this generator cannot draw the combination
 +-- InvalidSpecs           several invalid fields
 +-- MalformedDocument      a JSON document that cannot be read at all
 +-- TooLarge               the file, or the memory to draw it, exceeds a limit
 +-- Busy                   a limit is reached; trying again later may help
 +-- DeviceUnavailable      the device does not exist or cannot be used
 +-- GeneratorUnsound       a known answer of the generator is wrong on this machine
"""

import reprlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# More errors do not help the reader, and the answer could become longer than the request.
MOST_ERRORS = 20

# A received value can be megabytes long or nested a thousand deep. The beginning is enough to recognise it.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxlong = 100

# Characters of a misspelt name: comparing longer ones costs more than it helps.
_LONGEST_NAME = 80

# More than a field path or a sentence of this package needs, with a longest name. Both can contain received text.
_LONGEST = 2500


class WeightwellError(Exception):
    """Base class of the errors of this package. The message may be sent to the client."""


class InvalidSpec(WeightwellError, ValueError):
    """A field has an invalid value.

    ``field`` is the path of the field (``"tensors.h.0.weight.std"``), ``got`` the value received, and ``expected`` the
    values allowed. ``hint`` is a suggestion, or None. ``detail`` replaces the standard sentence with these four, for
    example by torch's message.
    """

    def __init__(self, field: str, *, got: object, expected: str, detail: str | None = None, hint: str | None = None):
        self.field = _cut(field)
        self.got = got
        self.expected = expected
        self.hint = hint
        self.errors: tuple[InvalidSpec, ...] = (self,)
        standard = f"{field} must be {expected}, got {_BRIEF.repr(got)}"
        self.detail = _cut(detail or (f"{standard}; {hint}" if hint else standard))
        super().__init__(self.detail)

    def within(self, prefix: str) -> "InvalidSpec":
        """Return the same error for a field that lies inside ``prefix``."""
        detail = f"{prefix}: {self.detail}"
        return type(self)(f"{prefix}.{self.field}", got=self.got, expected=self.expected, detail=detail, hint=self.hint)

    def under(self, prefix: str) -> "InvalidSpec":
        """Return the same error for a field whose name has a ``prefix`` here, such as ``bias_std`` for ``std``."""
        begins = self.detail.startswith(self.field)
        detail = f"{prefix}{self.detail}" if begins else f"{prefix}{self.field}: {self.detail}"
        return type(self)(f"{prefix}{self.field}", got=self.got, expected=self.expected, detail=detail, hint=self.hint)


def did_you_mean(got: object, names: Iterable[str]) -> str | None:
    """Return a question with the name closest to ``got``, such as "did you mean relu?", or None if no name is close."""
    if not isinstance(got, str) or len(got) > _LONGEST_NAME:
        return None
    known = {name.lower(): name for name in names}
    like = get_close_matches(got.lower(), known, 1)
    return f"did you mean {known[like[0]]}?" if like else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class UnsupportedSpec(InvalidSpec):
    """Every field is valid, but the chosen generator cannot draw this combination."""


class InvalidSpecs(WeightwellError, ValueError):
    """Several fields have invalid values; ``errors`` holds one ``InvalidSpec`` for each."""

    def __init__(self, errors: Sequence[InvalidSpec]):
        self.errors = tuple(errors[:MOST_ERRORS])
        listed = "; ".join(error.detail for error in self.errors)
        more = len(errors) - len(self.errors)
        super().__init__(f"{listed}; and {more} more" if more else listed)


class MalformedDocument(WeightwellError, ValueError):
    """The document is not a JSON object."""


class TooLarge(WeightwellError):
    """The file, or the memory to draw it, is larger than this deployment allows."""


class Busy(WeightwellError):
    """The memory or the threads for this request are in use. Try again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1):
        self.retry_after = retry_after
        super().__init__(message)


class DeviceUnavailable(WeightwellError):
    """The configured device does not exist or cannot be used."""


class GeneratorUnsound(WeightwellError):
    """A known answer of the generator is wrong on this machine, so nothing is drawn with it."""
