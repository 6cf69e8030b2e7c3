"""The log: the format of lines, client addresses and URLs."""

import logging
import re
from collections.abc import Mapping
from typing import Any, Literal

from uvicorn.logging import DefaultFormatter

from weightwell_service.observation.record import current

# The most characters of a URL in a log line.
_MAX_URL = 200

# The signature of an address that was refused may be valid for another method. In a presigned address of S3, the access
# key is the token.
_SECRET = re.compile(rb"(?i)((?:signature|x-amz-credential|x-amz-security-token|awsaccesskeyid)=)[^&]*")

# The time in every line: in local time, with the offset from UTC.
_TIME = "%Y-%m-%dT%H:%M:%S%z"


class WithRequest(logging.Filter):
    """Adds the identifier of the current request to each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True: every line is written."""
        request = current()
        record.request_id = request.identifier if request else None
        if request and request.trace:
            record.trace_id = request.trace
        record.shown_id = f" [{request.identifier}]" if request else ""
        return True


class Lines(DefaultFormatter):
    """Writes lines as uvicorn does. Without colours, it takes two thirds of the time.

    The times of lines in the same second are formatted once.
    """

    _second: tuple[int, str] = (-1, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - the name in logging
        """Return the time of a line."""
        second, text = self._second
        if second != int(record.created):
            text = super().formatTime(record, datefmt)
            self._second = int(record.created), text
        return text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record. uvicorn copies the record, to change it."""
        if self.use_colors:
            return super().formatMessage(record)
        record.levelprefix = f"{record.levelname}:".ljust(9)
        return logging.Formatter.formatMessage(self, record)


def logging_config(form: Literal["text", "json"] = "text") -> dict[str, Any]:
    """Return the configuration of Python's logging for a server, in lines of text or of JSON.

    Lines about requests go to standard output, and all others to standard error.
    """
    text = {
        "()": f"{__name__}.Lines",
        "fmt": "%(asctime)s %(levelprefix)s %(message)s%(shown_id)s",
        "datefmt": _TIME,
        "use_colors": None,
    }
    json = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
        "datefmt": _TIME,
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        "reserved_attrs": [*_attributes(), "shown_id", "color_message"],
    }
    handler = {"formatter": "line", "filters": ["request"], "class": "logging.StreamHandler"}
    ours = {"handlers": ["error"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": WithRequest}},
        "formatters": {"line": json if form == "json" else text},
        "handlers": {
            "error": {**handler, "stream": "ext://sys.stderr"},
            "output": {**handler, "stream": "ext://sys.stdout"},
        },
        "loggers": {
            "uvicorn": ours,
            "weightwell_service": ours,
            "weightwell_service.observation.requests": {**ours, "handlers": ["output"]},
            "py.warnings": ours,
        },
    }


def _attributes() -> list[str]:
    """Return the names of what every line has, which are not fields of JSON by themselves."""
    return [*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime"]


def address(client: tuple[str, int] | None) -> str:
    """Return a client's address for the log."""
    return "an unknown client" if client is None else f"{client[0]}:{client[1]}"


def request_line(scope: Mapping[str, Any]) -> str:
    """Return the method and the URL of a request, shortened, without a signature, and in printable ASCII."""
    query = _without_secrets(scope)
    url = scope.get("raw_path", b"") + (b"?" + query if query else b"")
    return _shown(f"{scope.get('method', '?')} {url.decode('latin-1')}")


def shown_query(scope: Mapping[str, Any]) -> str:
    """Return the query of a request, shortened, without a signature, and in printable ASCII."""
    return _shown(_without_secrets(scope).decode("latin-1"))


def _without_secrets(scope: Mapping[str, Any]) -> bytes:
    return _SECRET.sub(rb"\1...", scope.get("query_string", b""))


def _shown(text: str) -> str:
    shown = text if len(text) <= _MAX_URL else text[:_MAX_URL] + "..."
    return shown.encode("unicode_escape").decode("ascii")
