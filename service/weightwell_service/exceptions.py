"""Errors of HTTP requests. The others are the engine's: ``weightwell_engine.exceptions``."""

from weightwell_engine.exceptions import WeightwellError


class PreconditionFailed(WeightwellError):
    """The file is not the one that was expected; its own tag is ``etag``."""

    def __init__(self, etag: str):
        self.etag = etag
        super().__init__(f"the file that this spec means here has the ETag {etag}, which If-Match does not list")


class UnsupportedEncoding(WeightwellError):
    """The body is compressed, with ``encoding``; this server reads JSON as it is."""

    def __init__(self, encoding: str):
        super().__init__(f"Content-Encoding must be absent or identity, got {encoding[:80]!r}; send the JSON as it is")


class RangeNotSatisfiable(WeightwellError):
    """None of the wanted bytes lies in the file, which is ``size`` bytes long."""

    def __init__(self, size: int):
        self.size = size
        super().__init__(f"the range begins at or after the end of the file, which is {size} bytes long")
