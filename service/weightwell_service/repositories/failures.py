"""The error of an upstream Hub."""

from weightwell_engine.exceptions import WeightwellError


class UpstreamError(WeightwellError):
    """The upstream Hub does not have what is wanted, fails, or sends something wrong.

    ``status`` is that of the answer: 404 or 403, 502, or 504 if the upstream did not answer in time. ``code`` is the
    Hub's name for what is missing, None for a failure.
    """

    def __init__(self, message: str, *, status: int = 502, code: str | None = None):
        self.status = status
        self.code = code
        super().__init__(message)
