"""Answers: what the status and the header fields of a response promise, and what a refusal says."""

import re
from typing import Any

import httpx

from weightwell.exceptions import (
    AccessDenied,
    Busy,
    InvalidRequest,
    NotFound,
    ServerProblem,
    TooLarge,
    UnexpectedResponse,
)
from weightwell.problems import Problem
from weightwell.transfers.retry import seconds_of

REFUSALS: dict[int, type[ServerProblem]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    405: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: Busy,
    503: Busy,
}


def refusal(response: httpx.Response) -> ServerProblem:
    """Return the exception for an error response whose body has been read."""
    problem = Problem.of(
        _document(response),
        status=response.status_code,
        reason=response.reason_phrase,
        text=response.text,
        retry_after=seconds_of(response.headers.get("Retry-After")),
    )
    return REFUSALS.get(response.status_code, ServerProblem)(problem)


def length_of(response: httpx.Response) -> int:
    """Return the length in bytes that a response promises for its body, which must be the file as it is."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnexpectedResponse(f"the body came with Content-Encoding: {encoding}, which was not asked for")
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise UnexpectedResponse("the body came without a Content-Length; is there a proxy that rewrites bodies?")
    return int(length)


def strong_etag(response: httpx.Response) -> str | None:
    """Return the entity tag of the body where it promises the same bytes, which a weak one does not."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None


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
            f"a range of the file was asked for, and something else came: expected range, length and ETag "
            f"{expected}, got {got}"
        )


def _content_range(response: httpx.Response) -> tuple[int, ...]:
    """Return (first, last, total) of ``Content-Range: bytes first-last/total``; empty where it is not of that form."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    return tuple(map(int, found.groups())) if found else ()


def _document(response: httpx.Response) -> Any:
    """Return the parsed body, None where it is not JSON."""
    try:
        return response.json()
    except ValueError:
        return None
