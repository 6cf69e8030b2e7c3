"""The upstream Hub: descriptions of its repositories, their small files, and the headers of their weight files.

Its address is the setting WEIGHTWELL_UPSTREAM; a request cannot change it. The service sends it names of repositories
and files, and no header fields of a client. Redirects are followed, as the Hub sends large files
from other hosts; httpx does not send the token to another host.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import quote

import httpx

from weightwell_engine.exceptions import Busy, TooLarge
from weightwell_service.budget import MemoryBudget
from weightwell_service.repositories.failures import UpstreamError

# The most requests at a time.
CONNECTIONS = 16

# The largest JSON answer in bytes: a list of 100,000 files.
_MOST_JSON = 2**25

# The most pages of commits that are read to find one. The Hub has 50 or more on a page.
_MOST_PAGES = 20

# The bytes before the header of a safetensors file: its length.
LENGTH = 8

# Codes of the Hub's errors that say what is missing. The Hub answers 401 for repositories that do not exist.
_CODES = {"RepoNotFound", "RevisionNotFound", "EntryNotFound", "GatedRepo"}


class Upstream:
    """A Hub at ``url``. Each request has ``timeout`` seconds, from the wait for a connection to the end of the body.

    The memory for what is being read counts in the ``budget``. The methods raise ``UpstreamError``,
    ``TooLarge`` and ``Busy``.
    """

    def __init__(self, url: str, *, token: str | None, timeout: float, budget: MemoryBudget):
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._budget = budget
        self._turns = asyncio.Semaphore(CONNECTIONS)
        # Bytes are counted and cut as they are sent, so they must not be compressed.
        headers = {"user-agent": "weightwell", "accept-encoding": "identity"}
        self._client = httpx.AsyncClient(
            headers=headers | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=timeout,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=True,
            max_redirects=5,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def description(self, name: str, revision: str) -> bytes:
        """Return the JSON of a repository at a revision, with its files and their sizes."""
        path = f"/api/models/{name}/revision/{quote(revision, safe='')}"
        return await self._whole(f"{path}?blobs=true", _MOST_JSON, f"the repository {name}", missing="RepoNotFound")

    async def commits(self, name: str) -> AsyncIterator[bytes]:
        """Yield pages of the JSON of the commits of main, the newest first."""
        path = f"/api/models/{name}/commits/main"
        for page in range(_MOST_PAGES):
            what = f"the commits of {name}"
            yield await self._whole(f"{path}?p={page}", _MOST_JSON, what, missing="RevisionNotFound")

    async def file(self, name: str, commit: str, path: str, *, limit: int) -> bytes:
        """Return a file of at most ``limit`` bytes."""
        return await self._whole(_address(name, commit, path), limit, f"{name}/{path}")

    async def header(self, name: str, commit: str, path: str, *, size: int | None, limit: int) -> bytes:
        """Return the JSON of the header of a weight file of ``size`` bytes, which may have ``limit``.

        Two ranges are read, of the length and of the header, so that no byte of data is sent. An upstream without
        ranges is read up to the end of the header.
        """
        url, what = _address(name, commit, path), f"the header of {name}/{path}"
        async with self._get(url, what, (0, LENGTH)) as body:
            length = int.from_bytes(await body.read(LENGTH), "little")
            if length > limit:
                raise TooLarge(
                    f"{what} has {length} bytes, and this server reads at most {limit} "
                    "(WEIGHTWELL_UPSTREAM_MAX_HEADER_BYTES)"
                )
            if length < 2 or (size is not None and LENGTH + length > size):
                raise UpstreamError(f"{what} cannot be read: it has {length} bytes, and the file has {size}")
            if body.is_whole:
                return await body.read(length)
        async with self._get(url, what, (LENGTH, LENGTH + length)) as body:
            if body.is_whole:
                await body.read(LENGTH)
            return await body.read(length)

    async def _whole(self, url: str, limit: int, what: str, *, missing: str = "EntryNotFound") -> bytes:
        async with self._get(url, what, missing=missing) as body:
            return await body.all(limit)

    @asynccontextmanager
    async def _get(
        self, url: str, what: str, wanted: tuple[int, int] | None = None, *, missing: str = "EntryNotFound"
    ) -> AsyncIterator["_Body"]:
        """Yield the body of an answer: of the bytes ``[start, stop)``, or of all if the upstream has no ranges.

        ``missing`` is the code of a 404 that has none.
        """
        headers = {} if wanted is None else {"range": f"bytes={wanted[0]}-{wanted[1] - 1}"}
        with _errors(what, self._timeout):
            async with (
                asyncio.timeout(self._timeout),
                self._turns,
                self._client.stream("GET", self.url + url, headers=headers) as answer,
            ):
                _check(answer, what, missing)
                if wanted is not None and answer.status_code == 206:
                    _check_range(answer, what, wanted[0])
                with _counted(self._budget) as count:
                    yield _Body(answer, what, count)


class _Body:
    """The body of an answer. ``is_whole``: whether it is that of a whole file, and not of a range."""

    def __init__(self, answer: httpx.Response, what: str, count: Callable[[int], None]):
        self.is_whole = answer.status_code == 200
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":  # a few bytes could become any number
            raise UpstreamError(f"{what} cannot be read: the upstream sent it as {encoding[:40]!r}, asked for identity")
        self._chunks = answer.aiter_raw()
        self._what = what
        self._count = count
        self._rest = b""

    async def read(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        self._count(size)
        found = bytearray(self._rest)
        while len(found) < size:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                raise UpstreamError(f"{self._what} cannot be read: the upstream sent {len(found)} of {size} bytes")
            found += chunk
        self._rest = bytes(found[size:])
        return bytes(found[:size])

    async def all(self, limit: int) -> bytes:
        """Return all bytes; raise ``TooLarge`` if they are more than a limit."""
        found = bytearray()
        async for chunk in self._chunks:
            self._count(len(chunk))
            found += chunk
            if len(found) > limit:
                raise TooLarge(f"{self._what} has more than the {limit} bytes that this server reads from upstream")
        return bytes(found)


def _address(name: str, commit: str, path: str) -> str:
    return f"/{name}/resolve/{quote(commit, safe='')}/{quote(path)}"


@contextmanager
def _counted(budget: MemoryBudget) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts bytes in the budget until the end of the context; it raises ``Busy``."""
    held = 0

    def count(nbytes: int) -> None:
        nonlocal held
        budget.take(nbytes)
        held += nbytes

    try:
        yield count
    finally:
        budget.give(held)


@contextmanager
def _errors(what: str, timeout: float) -> Iterator[None]:
    """Convert errors of a connection. Their text is not passed on: it may have an address with a signature."""
    try:
        yield
    except (TimeoutError, httpx.TimeoutException):
        raise UpstreamError(
            f"{what} was not read from the upstream Hub within {timeout:g} s (WEIGHTWELL_UPSTREAM_TIMEOUT); try again",
            status=504,
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise UpstreamError(f"{what} cannot be read from the upstream Hub: {type(error).__name__}") from error


def _check(answer: httpx.Response, what: str, missing: str) -> None:
    """Raise the error that an answer says."""
    status = answer.status_code
    if status in {200, 206}:
        return
    said = f"{what} cannot be read from the upstream Hub, which answers with status {status}"
    code = answer.headers.get("x-error-code")
    if status in {429, 503}:
        seconds = answer.headers.get("retry-after", "")
        raise Busy(f"{said}; try again", retry_after=int(seconds) if seconds.isdecimal() and len(seconds) < 5 else 5)
    if status in {401, 403, 404} and code in _CODES:
        allow = ": it is gated, so set WEIGHTWELL_UPSTREAM_TOKEN to a token that may read it"
        gated = code == "GatedRepo"
        raise UpstreamError(f"{said} and {code}{allow if gated else ''}", status=403 if gated else 404, code=code)
    if status == 404:
        raise UpstreamError(said, status=404, code=missing)
    raise UpstreamError(said)


def _check_range(answer: httpx.Response, what: str, start: int) -> None:
    field = answer.headers.get("content-range", "")
    if not field.startswith(f"bytes {start}-"):
        raise UpstreamError(
            f"{what} cannot be read: the upstream Hub sent the range {field[:80]!r}, which must begin at {start}"
        )
