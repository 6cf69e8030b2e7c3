"""CORS in a real browser: which pages of other origins may read the service."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from weightwell_service.app import create_app
from weightwell_service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Serve = Callable[[FastAPI], AbstractContextManager[str]]

TOKENS = Path(__file__).parents[1] / "service" / "access" / "tokens.toml"
# What a page does: a request that needs a preflight (Authorization, Range), and the header fields that it may read.
FETCH = """async ([url, headers]) => {
  const fields = ["content-range", "etag", "weightwell-generator", "x-request-id", "date"];
  try {
    const answer = await fetch(url, {headers});
    const read = Object.fromEntries(fields.map((name) => [name, answer.headers.get(name) !== null]));
    return {status: answer.status, nbytes: (await answer.arrayBuffer()).byteLength, read};
  } catch (error) {
    return {error: error.name};
  }
}"""


class Empty(BaseHTTPRequestHandler):
    """A page without content."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """The port of a server with pages. Its two names are two origins, and both are on this machine, as the service is.

    A browser asks its user before a page of another machine may read from this one.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def url(serve: Serve, pages: int) -> Iterator[str]:
    settings = Settings(threads=1, cors_origins=f"http://localhost:{pages}", tokens_file=TOKENS)
    with serve(create_app(settings)) as url:
        yield url


def opened(browser: "Browser", url: str) -> Iterator["Page"]:
    page = browser.new_page()
    page.goto(url)
    yield page
    page.close()


@pytest.fixture
def allowed(browser: "Browser", pages: int) -> Iterator["Page"]:
    yield from opened(browser, f"http://localhost:{pages}/")


@pytest.fixture
def other(browser: "Browser", pages: int) -> Iterator["Page"]:
    yield from opened(browser, f"http://127.0.0.1:{pages}/")


def test_a_page_of_an_allowed_origin_reads_a_range_and_its_header(url: str, allowed: "Page") -> None:
    headers = {"Authorization": "Bearer right", "Range": "bytes=0-99"}
    got: dict[str, Any] = allowed.evaluate(FETCH, [f"{url}/init?shape=16&scheme=normal", headers])
    assert (got["status"], got["nbytes"]) == (206, 100)
    assert [name for name, found in got["read"].items() if found] == ["content-range", "etag", "weightwell-generator"]


def test_a_page_of_an_allowed_origin_reads_a_refusal(url: str, allowed: "Page") -> None:
    got: dict[str, Any] = allowed.evaluate(FETCH, [f"{url}/init?shape=16&scheme=normal", {}])
    assert got["status"] == 401
    assert got["nbytes"] > 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer right"}])
def test_a_page_of_another_origin_reads_nothing(url: str, other: "Page", headers: dict[str, str]) -> None:
    got = other.evaluate(FETCH, [f"{url}/init?shape=16&scheme=normal", headers])
    assert got == {"error": "TypeError"}
