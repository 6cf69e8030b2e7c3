"""HTTP preconditions and byte ranges, as pure functions of header values (RFC 9110, sections 13 and 14)."""

import re

from weightwell_service.exceptions import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,30})-(\d{0,30})|-(\d{1,30}))[ \t]*", re.IGNORECASE | re.ASCII)


def select_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes ``[start, stop)`` of a Range header for a file of ``size`` bytes, or None for the whole file.

    The end is clamped to the end of the file. A header that is malformed, has another unit or has several ranges is
    ignored, as the RFC allows: the answer is the whole file. Raises ``RangeNotSatisfiable`` for a range outside the
    file.
    """
    match = _ONE_RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(size - int(suffix), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(size)
    return start, stop


def etag_in(header: str, etag: str, *, weak: bool) -> bool:
    """Whether an entity tag is listed in an If-Match (strong comparison) or If-None-Match (weak) header."""
    listed = [tag.strip() for tag in header.split(",")]
    return "*" in listed or etag in listed or (weak and f"W/{etag}" in listed)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether If-Range allows a Range header. A date never matches, because files have no dates."""
    return if_range is None or if_range.strip() == etag
