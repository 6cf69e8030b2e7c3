"""Errors of the engine.

WeightwellError
 +-- InvalidSpec            a field has a value that is not allowed
 |    +-- UnsupportedSpec   every field is valid, but this generator cannot draw the combination
 +-- InvalidSpecs           several invalid fields
 +-- MalformedDocument      a JSON document that cannot be read at all
 +-- TooLarge               the file, or the memory to draw it, exceeds a limit
 +-- Busy                   a limit is reached now; later it may not be
 +-- DeviceUnavailable      the device does not exist or cannot be used
 +-- GeneratorUnsound       a known answer of the generator is wrong on this machine
"""

import reprlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# An answer that lists more of what is wrong helps nobody, and could be made longer than its question.
MOST_ERRORS = 20

# What was got can be megabytes long or nested a thousand deep; who sent it needs no more than to recognise it.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxlong = 100

# Characters of a misspelt name: comparing longer ones costs more than it helps.
_LONGEST_NAME = 80

# More than a path or a sentence of ours needs, with a name of the longest in it. They can hold what was sent as well.
_LONGEST = 2500


class WeightwellError(Exception):
    """Base of everything that this package raises on purpose; its text may be shown to whoever asked."""


class InvalidSpec(WeightwellError, ValueError):
    """A field has a value that it cannot have.

    ``field`` is the path of the field (``"tensors.h.0.weight.std"``), ``got`` its value, and ``expected`` says what is
    allowed. ``hint`` says what to do instead, where that can be guessed. ``detail`` replaces the standard sentence,
    which says all four, where torch has wording of its own.
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


def did_you_mean(got: object, names: Iterable[str]) -> str | None:
    """Return a question for the name that is most like ``got``, such as "did you mean relu?"; None if none is."""
    if not isinstance(got, str) or len(got) > _LONGEST_NAME:
        return None
    known = {name.lower(): name for name in names}
    like = get_close_matches(got.lower(), known, 1)
    return f"did you mean {known[like[0]]}?" if like else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class UnsupportedSpec(InvalidSpec):
    """Each field is fine by itself, and the chosen generator cannot draw them together."""


class InvalidSpecs(WeightwellError, ValueError):
    """Several fields have values that they cannot have; ``errors`` holds one ``InvalidSpec`` for each."""

    def __init__(self, errors: Sequence[InvalidSpec]):
        self.errors = tuple(errors[:MOST_ERRORS])
        told = "; ".join(error.detail for error in self.errors)
        more = len(errors) - len(self.errors)
        super().__init__(f"{told}; and {more} more" if more else told)


class MalformedDocument(WeightwellError, ValueError):
    """A document that is not a JSON object, whatever its fields say."""


class TooLarge(WeightwellError):
    """The result, or what is needed to draw it, is larger than this deployment allows."""


class Busy(WeightwellError):
    """The result could be drawn, but not now: memory, or a turn, is not free. Try again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1):
        self.retry_after = retry_after
        super().__init__(message)


class DeviceUnavailable(WeightwellError):
    """The configured device is not there, or cannot be used."""


class GeneratorUnsound(WeightwellError):
    """A known answer of the generator is wrong on this machine, so nothing is drawn with it."""
