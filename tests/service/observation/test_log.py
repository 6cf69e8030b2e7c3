"""The log: its lines, as text and as JSON."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from weightwell_service.observation.log import Lines

_LOG = """
import logging.config, sys
from weightwell_service.observation.log import logging_config
from weightwell_service.observation.record import begin
logging.config.dictConfig(logging_config(sys.argv[1]))
logging.getLogger("uvicorn.error").info("started")
begin([(b"x-request-id", b"abc-1")])
logging.getLogger("weightwell_service.server").warning("a connection was closed")
logging.getLogger("weightwell_service.observation.requests").info("GET /", extra={"request": {"status": 200}})
try:
    raise RuntimeError("a fault")
except RuntimeError:
    logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
"""

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}"


def written(form: str) -> Iterator[str]:
    """Yield what is written to standard output, and to standard error."""
    done = subprocess.run([sys.executable, "-c", _LOG, form], capture_output=True, text=True, timeout=60, check=True)
    yield done.stdout
    yield done.stderr


def test_a_line_of_text_has_its_time_level_and_request() -> None:
    output, error = written("text")
    assert re.fullmatch(rf"{TIME} INFO: +GET / \[abc-1\]\n", output)
    started, closed, fault, *traceback = error.splitlines()
    assert re.fullmatch(rf"{TIME} INFO: +started", started)
    assert re.fullmatch(rf"{TIME} WARNING: +a connection was closed \[abc-1\]", closed)
    assert fault.endswith("Exception in ASGI application [abc-1]")
    assert traceback[-1] == "RuntimeError: a fault"


def test_a_line_of_json_is_one_object_with_the_same() -> None:
    output, error = written("json")
    [request] = map(json.loads, output.splitlines())
    assert re.fullmatch(TIME, request.pop("time"))
    assert request == {
        "level": "INFO",
        "logger": "weightwell_service.observation.requests",
        "message": "GET /",
        "request_id": "abc-1",
        "request": {"status": 200},
    }
    started, closed, fault = map(json.loads, error.splitlines())
    assert (started["message"], started["request_id"]) == ("started", None)
    assert (closed["level"], closed["request_id"]) == ("WARNING", "abc-1")
    assert "RuntimeError: a fault" in fault["exc_info"]


def test_no_other_format_can_be_set() -> None:
    from weightwell_service.settings import Settings

    unknown: Any = "xml"
    with pytest.raises(ValueError, match="'text' or 'json'"):
        Settings(log_format=unknown)


def test_the_time_of_a_line_is_its_own_second() -> None:
    lines = Lines("%(asctime)s %(levelprefix)s %(message)s", "%S", use_colors=False)

    def line(created: float, level: int) -> str:
        record = logging.LogRecord("name", level, "path", 1, "message", None, None)
        record.created = created
        return lines.format(record)

    written = [line(0.1, logging.INFO), line(0.9, logging.CRITICAL), line(1.0, logging.INFO), line(0.1, logging.INFO)]
    assert written == [
        "00 INFO:     message",
        "00 CRITICAL: message",
        "01 INFO:     message",
        "00 INFO:     message",
    ]
