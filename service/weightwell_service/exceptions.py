"""Errors of HTTP requests. The others are the engine's: ``weightwell_engine.exceptions``."""

from weightwell_engine.exceptions import WeightwellError


class PreconditionFailed(WeightwellError):
    """The file has another entity tag, ``etag``, than the client expected."""

    def __init__(self, etag: str):
        self.etag = etag
        super().__init__(f"the file of this spec has the ETag {etag} on this server, which If-Match does not list")


class NotAllowed(WeightwellError):
    """The client may not use what the request asks for."""


class UnsupportedEncoding(WeightwellError):
    """The body is compressed with ``encoding``; this server reads only plain JSON."""

    def __init__(self, encoding: str):
        super().__init__(f"Content-Encoding must be absent or identity, got {encoding[:80]!r}; send plain JSON")


class RangeNotSatisfiable(WeightwellError):
    """The range is outside the file, which has ``size`` bytes."""

    def __init__(self, size: int):
        self.size = size
        super().__init__(f"the range begins at or after the end of the file, which is {size} bytes long")
