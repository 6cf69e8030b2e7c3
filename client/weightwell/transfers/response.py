"""Responses: checks of the status and the header fields, and the exception for an error."""

import json
import re
from typing import Any

import httpx

from weightwell.exceptions import REFUSALS, ServerProblem, UnexpectedResponse
from weightwell.problems import Problem
from weightwell.transfers.retry import seconds_of


def refusal(response: httpx.Response, body: bytes) -> ServerProblem:
    """Return the exception for an error response, given the first bytes of its body."""
    problem = Problem.of(
        _document(body),
        status=response.status_code,
        reason=response.reason_phrase,
        text=body.decode(errors="replace"),
        retry_after=seconds_of(response.headers.get("Retry-After")),
    )
    return REFUSALS.get(response.status_code, ServerProblem)(problem)


def length_of(response: httpx.Response) -> int:
    """Return the length of the body in bytes; raise ``UnexpectedResponse`` for a body that is encoded."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnexpectedResponse(f"expected a body without an encoding, got Content-Encoding: {encoding}")
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise UnexpectedResponse("the body has no valid Content-Length; is there a proxy that rewrites bodies?")
    return int(length)


def strong_etag(response: httpx.Response) -> str | None:
    """Return the strong entity tag of the body, or None. A weak tag is ignored: it does not promise equal bytes."""
    etag: str = response.headers.get("ETag", "")
    return etag if re.fullmatch('"[!#-~]*"', etag) else None


def check_whole(response: httpx.Response) -> None:
    """Raise ``UnexpectedResponse`` unless the response brings a whole file."""
    if response.status_code == 200:
        return
    where = f" to {response.headers['Location']}" if "Location" in response.headers else ""
    got = f"{response.status_code} {response.reason_phrase}{where}"
    raise UnexpectedResponse(f"expected 200, got {got}; is base_url the address of a Weightwell server?")


def check_range(response: httpx.Response, *, start: int, stop: int, total: int, etag: str) -> None:
    """Raise ``UnexpectedResponse`` unless the response brings the bytes ``[start, stop)`` of the same file."""
    got = (_content_range(response), length_of(response), strong_etag(response))
    expected = ((start, stop - 1, total), stop - start, etag)
    if got != expected:
        raise UnexpectedResponse(
            f"the answer is not the requested range of the file: expected range, length and ETag {expected}, got {got}"
        )


def _content_range(response: httpx.Response) -> tuple[int, ...]:
    """Return (first, last, total) of ``Content-Range: bytes first-last/total``, or () for any other form."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    return tuple(map(int, found.groups())) if found else ()


def _document(body: bytes) -> Any:
    """Return the parsed body, None where it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
