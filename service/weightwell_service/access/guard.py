"""The guard: ASGI middleware that lets a request in if it has a token or a signed address, and counts its answer."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightwell_engine.exceptions import TooLarge
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.access.signatures import InvalidSignature, is_signed, verified
from weightwell_service.access.tokens import InvalidTokens, Token, Tokens
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


class Gate:
    """The tokens of a server, which can be read again, and what they have used."""

    def __init__(self, path: Path, usage: Usage):
        self._path = path
        self.tokens = Tokens.read(path)
        self.usage = usage

    def read_again(self) -> None:
        """Read the file again. If it cannot be used, the tokens stay as they are, and the log has the reason."""
        try:
            self.tokens = Tokens.read(self._path)
        except InvalidTokens as error:
            log.warning("the tokens cannot be read again, so the former ones stay: %s", error)
        else:
            log.info("the tokens have been read again")

    def token_of(self, scope: Scope) -> Token:
        """Return the token of a request, and remove a signature from its query; raise ``Denied``."""
        if is_signed(scope["query_string"]):
            return self._signer(scope)
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if given is None:
            raise Denied("this server needs a token, got none; send it as Authorization: Bearer TOKEN")
        sent = _BEARER.fullmatch(given) or _ACCESS_KEY.match(given)
        if sent is None:
            raise Denied("this server needs a token, got another kind of Authorization; send Bearer TOKEN")
        token = self.tokens.find(sent["token"])
        if token is None:
            raise Denied("this server does not know the token; ask who runs it for one")
        return token

    def _signer(self, scope: Scope) -> Token:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Denied(f"a signed address is for GET and HEAD, got {scope['method']}")
        try:
            name, query = verified(
                scope["raw_path"].partition(b"?")[0], scope["query_string"], self.tokens.signing_key, self.usage.clock()
            )
        except InvalidSignature as error:
            raise Denied(str(error)) from None
        token = self.tokens.named(name)
        if token is None:
            raise Denied(f"the token {name} that signed this address is not valid any more")
        scope["query_string"] = query
        return token


class Guard:
    """The middleware. ``is_open`` tells whether a path needs no token; ``refusal`` makes the answer to a request."""

    def __init__(self, app: ASGIApp, gate: Gate, is_open: Callable[[str], bool], refusal: Refusal):
        self._app = app
        self._gate = gate
        self._is_open = is_open
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            token = self._gate.token_of(scope)
        except Denied as error:
            headers = {"www-authenticate": 'Bearer realm="weightwell"'}
            await self._refusal(scope, 401, str(error), headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["token"] = token
        counted = _Counted(self._gate.usage, token, send, is_head=scope["method"] == "HEAD")
        try:
            self._gate.usage.begin(token)
            try:
                await self._app(scope, receive, counted.send)
            finally:
                self._gate.usage.end(token)
                counted.settle()
        except Exceeded as error:
            headers = {"retry-after": str(error.retry_after)}
            await self._refusal(scope, 429, str(error), headers)(scope, receive, send)


class _Counted:
    """Counts the bytes of an answer. Caches that others share must not keep it."""

    def __init__(self, usage: Usage, token: Token, send: Send, *, is_head: bool):
        self._usage = usage
        self._token = token
        self._send = send
        self._is_head = is_head
        self._unsent = 0

    async def send(self, message: Message) -> None:
        """Send one part of the answer; raise ``Exceeded`` before its first."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            length = 0 if self._is_head else int(headers.get("content-length", 0))
            self._usage.take(self._token, length)
            self._unsent = length
            headers["cache-control"] = _private(headers.get("cache-control", ""))
            headers.add_vary_header("Authorization")
        else:
            self._unsent -= min(len(message.get("body", b"")), self._unsent)
        await self._send(message)

    def settle(self) -> None:
        """Give back what was not sent."""
        self._usage.give(self._token, self._unsent)


def _private(cache_control: str) -> str:
    """Return a value of Cache-Control, changed so that no cache keeps the answer for others."""
    kept = [each for each in cache_control.split(", ") if each and each != "public"]
    return ", ".join(kept if {"private", "no-store"} & set(kept) else ["private", *kept])


def token_of(request: Request) -> Token | None:
    """Return the token of a request; None if the server has no tokens, or needs none for this path."""
    token: Token | None = request.scope.get("state", {}).get("token")
    return token


def check_allowed(request: Request, file: VirtualFile) -> None:
    """Raise ``TooLarge`` for a file that the token of a request may not have."""
    token = token_of(request)
    if token is not None and token.max_bytes is not None and file.plan.data_nbytes > token.max_bytes:
        raise TooLarge(
            f"the file would hold {file.plan.data_nbytes} bytes of tensors, and the token {token.name} may have "
            f"{token.max_bytes} (max_bytes); request a slice, or fewer tensors at once"
        )
