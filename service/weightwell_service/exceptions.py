"""What can be wrong with a request, in the words of this problem and none of HTTP's.

WeightwellError
 +-- InvalidSpec            a field has a value that it cannot have
 |    +-- UnsupportedSpec   each field is fine, and the generator cannot draw them together
 +-- InvalidSpecs           several fields at once
 +-- MalformedBody          a request body that cannot be read at all
 +-- TooLarge               the result is larger than this deployment serves
 +-- Busy                   there is room for the result, but not now
 +-- PreconditionFailed     the file is not the one that was expected
 +-- RangeNotSatisfiable    none of the wanted bytes is in the file
 +-- DeviceUnavailable      the configured device is not there
"""

import reprlib
from collections.abc import Sequence

# An answer that lists more of what is wrong helps nobody, and could be made longer than its question.
MOST_ERRORS = 20

# What was got can be megabytes long or nested a thousand deep; who sent it needs no more than to recognise it.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxlong = 100

# More than a path or a sentence of ours needs, with a name of the longest in it. They can hold what was sent as well.
_LONGEST = 2500


class WeightwellError(Exception):
    """Base of everything that this package raises on purpose; its text may be shown to whoever asked."""


class InvalidSpec(WeightwellError, ValueError):
    """A field has a value that it cannot have.

    ``field`` is the path of the field (``"tensors.h.0.weight.std"``), ``got`` its value, and ``expected`` says what is
    allowed. ``detail`` replaces the standard sentence where torch has wording of its own.
    """

    def __init__(self, field: str, *, got: object, expected: str, detail: str | None = None):
        self.field = _cut(field)
        self.got = got
        self.expected = expected
        self.errors: tuple[InvalidSpec, ...] = (self,)
        self.detail = _cut(detail or f"{field} must be {expected}, got {_BRIEF.repr(got)}")
        super().__init__(self.detail)

    def within(self, prefix: str) -> "InvalidSpec":
        """Return the same error for a field that lies inside ``prefix``."""
        detail = f"{prefix}: {self.detail}"
        return type(self)(f"{prefix}.{self.field}", got=self.got, expected=self.expected, detail=detail)


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


class MalformedBody(WeightwellError, ValueError):
    """A request body that is not what it should be, whatever its fields say."""


class TooLarge(WeightwellError):
    """The result, or what is needed to draw it, is larger than this deployment allows."""


class Busy(WeightwellError):
    """The result could be drawn, but the memory for it is in use; try again."""


class PreconditionFailed(WeightwellError):
    """The file is not the one that was expected; its own tag is ``etag``."""

    def __init__(self, etag: str):
        self.etag = etag
        super().__init__(f"the file that this spec means here has the ETag {etag}, which If-Match does not list")


class RangeNotSatisfiable(WeightwellError):
    """None of the wanted bytes lies in the file, which is ``size`` bytes long."""

    def __init__(self, size: int):
        self.size = size
        super().__init__(f"the range begins at or after the end of the file, which is {size} bytes long")


class DeviceUnavailable(WeightwellError):
    """The configured device is not there, or cannot be used."""
