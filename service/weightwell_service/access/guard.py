"""The guard: ASGI middleware that finds the client of a request, lets it in or not, and counts its answer.

On a server with tokens, a request must have a token or a signed address (``Gate``). Without tokens, all are let in, and
the client is the address (``Addresses``).
"""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightwell_service.access.clients import Client, address_of
from weightwell_service.access.costs import Costs
from weightwell_service.access.signatures import InvalidSignature, is_signed, verified
from weightwell_service.access.tokens import InvalidTokens, Tokens
from weightwell_service.access.usage import Exceeded, Usage

log = logging.getLogger(__name__)

# The two ways in which a client sends a token. Clients of S3 have an access key, which is the token, and a signature of
# the request, which is not checked.
_BEARER = re.compile(rb"Bearer +(?P<token>\S+) *", re.IGNORECASE)
_ACCESS_KEY = re.compile(rb"AWS4-HMAC-SHA256 +Credential=(?P<token>[^/,\s]+)/")

# Returns an answer to a refused request: its scope, the status, a sentence, and header fields.
Refusal = Callable[[Scope, int, str, Mapping[str, str]], Response]


class Denied(Exception):
    """A request without access."""


class Clients(Protocol):
    """Finds the clients of requests. ``usage``: what they have used. ``private``: whether an answer is for one only."""

    usage: Usage
    private: bool

    def client_of(self, scope: Scope) -> Client:
        """Return the client of a request; raise ``Denied``."""


class Addresses:
    """The clients of a server without tokens: their addresses, which all have the same limits."""

    private = False

    def __init__(self, usage: Usage, *, max_responses: int | None, bytes_per_day: int | None, costs: Costs):
        self.usage = usage
        self._max_responses = max_responses
        self._bytes_per_day = bytes_per_day
        self._costs = costs

    def client_of(self, scope: Scope) -> Client:
        """Return the client of a request."""
        return Client(
            "address",
            address_of(scope),
            max_responses=self._max_responses,
            bytes_per_day=self._bytes_per_day,
            costs=self._costs,
        )


class Gate:
    """The tokens of a server, which can be read again, and what they have used.

    ``costs``: the limits of each request, besides those of its token.
    """

    private = True

    def __init__(self, path: Path, usage: Usage, costs: Costs | None = None):
        self._path = path
        self._costs = costs
        self.tokens = Tokens.read(path, costs)
        self.usage = usage

    def read_again(self) -> None:
        """Read the file again. If it cannot be used, the tokens stay as they are, and the log has the reason."""
        try:
            self.tokens = Tokens.read(self._path, self._costs)
        except InvalidTokens as error:
            log.warning("the tokens cannot be read again, so the former ones stay: %s", error)
        else:
            log.info("the tokens have been read again")

    def client_of(self, scope: Scope) -> Client:
        """Return the client with the token of a request, and remove a signature from its query; raise ``Denied``."""
        if is_signed(scope["query_string"]):
            return self._signer(scope)
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if given is None:
            raise Denied("this server needs a token, got none; send it as Authorization: Bearer TOKEN")
        sent = _BEARER.fullmatch(given) or _ACCESS_KEY.match(given)
        if sent is None:
            raise Denied("this server needs a token, got another kind of Authorization; send Bearer TOKEN")
        client = self.tokens.find(sent["token"])
        if client is None:
            raise Denied("this server does not know the token; ask who runs it for one")
        return client

    def _signer(self, scope: Scope) -> Client:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Denied(f"a signed address is for GET and HEAD, got {scope['method']}")
        try:
            name, query = verified(
                scope["raw_path"].partition(b"?")[0], scope["query_string"], self.tokens.signing_key, self.usage.clock()
            )
        except InvalidSignature as error:
            raise Denied(str(error)) from None
        client = self.tokens.named(name)
        if client is None:
            raise Denied(f"the token {name} that signed this address is not valid any more")
        scope["query_string"] = query
        return client


class Guard:
    """The middleware. ``is_open``: whether a request is for everybody, without limits; ``refusal`` makes an answer."""

    def __init__(self, app: ASGIApp, clients: Clients, is_open: Callable[[Scope], bool], refusal: Refusal):
        self._app = app
        self._clients = clients
        self._is_open = is_open
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            client = self._clients.client_of(scope)
        except Denied as error:
            headers = {"www-authenticate": 'Bearer realm="weightwell"'}
            await self._refusal(scope, 401, str(error), headers)(scope, receive, send)
            return
        usage = self._clients.usage
        scope.setdefault("state", {}).update(client=client, check_bytes=partial(usage.check, client))
        counted = _Counted(usage, client, send, is_head=scope["method"] == "HEAD", private=self._clients.private)
        try:
            usage.begin(client)
            try:
                await self._app(scope, receive, counted.send)
            finally:
                usage.end(client)
                counted.settle()
        except Exceeded as error:
            headers = {"retry-after": str(error.retry_after)}
            await self._refusal(scope, 429, str(error), headers)(scope, receive, send)


class _Counted:
    """Counts the bytes of an answer. If it is ``private``, caches that others share must not keep it."""

    def __init__(self, usage: Usage, client: Client, send: Send, *, is_head: bool, private: bool):
        self._usage = usage
        self._client = client
        self._send = send
        self._is_head = is_head
        self._private = private
        self._unsent = self._day = 0

    async def send(self, message: Message) -> None:
        """Send one part of the answer; raise ``Exceeded`` before its first."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            length = 0 if self._is_head else int(headers.get("content-length", 0))
            self._day = self._usage.take(self._client, length)
            self._unsent = length
            if self._private:
                headers["cache-control"] = _private(headers.get("cache-control", ""))
                headers.add_vary_header("Authorization")
        else:
            self._unsent -= min(len(message.get("body", b"")), self._unsent)
        await self._send(message)

    def settle(self) -> None:
        """Give back what was not sent."""
        if self._unsent:
            self._usage.give(self._client, self._unsent, self._day)


def _private(cache_control: str) -> str:
    """Return a value of Cache-Control, changed so that no cache keeps the answer for others."""
    kept = [each for each in cache_control.split(", ") if each and each != "public"]
    return ", ".join(kept if {"private", "no-store"} & set(kept) else ["private", *kept])
