"""The protocol: uvicorn's HTTP/1.1 protocol, with limits.

uvicorn parses with httptools and calls the application. It has deadlines only for idle connections, buffers a head or a
trailer of any size, and notices a disconnect only if the client sent nothing after its request. This subclass adds the
limits. It answers a refused request with a problem body.
"""

import asyncio
import ipaddress
import logging
import re
import select
import socket
import struct
import sys
from collections import deque
from typing import Any

import httptools
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from weightwell_service.observation.log import address, request_line
from weightwell_service.server.connections import Connections
from weightwell_service.server.deadlines import Phase, Watch
from weightwell_service.server.refusal import Refusal, refusal_of
from weightwell_service.server.write_limit import SMALL

if sys.platform != "win32":
    import fcntl
    import termios

log = logging.getLogger(__name__)

# The most bytes of the head of a request. It also limits other input that is not part of a body: trailers and chunk
# extensions.
MAX_HEAD = 2**16

# The most header fields of a request. A field can take 30 times as much memory as its bytes.
_MAX_FIELDS = 256

# Bytes that the parser gets at once. Before the next part, a check decides whether the next request may be parsed.
_PART = 2**13

# The most bytes that are buffered of further requests while one is being answered.
_MAX_AHEAD = 2**16

# The most bytes that are read and dropped after a refusal, before the connection is reset.
_MAX_DROPPED = 2**23

# A host and an optional port: the authority of RFC 3986 without the user.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

# Seconds between two probes of a client that has closed its sending side: the first, and the longest.
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0

# Seconds between two looks whether a client has closed its sending side, while nothing is read from it.
_PAUSED_LOOK = 0.3


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, shared: Connections, **options: Any):
        super().__init__(*arguments, **options)
        self._shared = shared
        shared.open = lambda: self.connections  # type: ignore[assignment,return-value]  # of all, in uvicorn's set
        self._application, self.app = self.app, self._call
        self._watch = Watch()
        self._ahead = bytearray()  # received and not parsed
        self._cycles: deque[RequestResponseCycle] = deque()  # requests without a complete answer, in order
        self._requests = 0
        self._in_head = self._in_body = False
        self._idle_nbytes = 0  # fed to the parser since it called back
        self._received = self._sent = 0  # bytes of bodies
        self._unframed = 0  # bytes of a body that the parser leaves unparsed, because the request has an Upgrade header
        self._refusal: Refusal | None = None
        self._lingering = False
        self._dropped = 0
        self._ended = False  # the client sends no more
        self._looking = False  # whether the client has gone, while it is not read from, or has ended
        self._last = False  # nothing is answered after the request that is being answered

    # The connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection. If there are too many, the longest idle one is closed."""
        super().connection_made(transport)
        self._shared.admit(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answers to all requests that were received, not only the newest."""
        self._shared.quiet.pop(self, None)
        self._unset_keepalive_if_required()
        for cycle in self._cycles:
            _leave(cycle)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection if the client still waits for an answer to a whole request."""
        waiting = bool(self._cycles) and not self._cycles[0].more_body and not self._lingering
        self._ended = True
        if waiting:
            self._begin_to_look()
        return waiting

    def _begin_to_look(self) -> None:
        if not self._looking:
            self._looking = True
            self.loop.call_later(_FIRST_LOOK, self._look, _FIRST_LOOK)

    def _look(self, delay: float) -> None:
        """Probe whether a client has closed its sending side, and if so, whether it still reads.

        A closed and a half-closed connection look the same until the server sends something. So send an interim
        response, which HTTP/1.1 clients must ignore. If the connection is closed, the answer is a reset, and the next
        write fails.
        """
        if self.transport.is_closing() or not self._cycles:
            self._looking = False
            return
        if not self._ended and not _peer_ended(self.transport):
            self._looking = self.flow.read_paused
            if self._looking:
                self.loop.call_later(_PAUSED_LOOK, self._look, _FIRST_LOOK)
            return
        cycle = self._cycles[0]
        if not cycle.response_started:
            if cycle.scope["http_version"] == "1.1":
                self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            elif delay >= _LAST_LOOK:
                self.transport.close()
                return
        self.loop.call_later(delay, self._look, min(2 * delay, _LAST_LOOK))

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abort()

    def _reset(self) -> None:
        """Close the connection now, and discard the bytes in the kernel that the client has not read."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def turn_away(self, limit: int) -> None:
        """Refuse the connection, because there are more than ``limit``."""
        refusal = Refusal(503, f"this server has {limit} connections, which is its limit; try again")
        self.transport.write(refusal.encode(self.server_state.default_headers))
        self.transport.close()

    # Parsing -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes, and parse them unless an earlier request is being answered."""
        if self._lingering:
            self._dropped += len(data)
            if self._dropped > _MAX_DROPPED:
                self._reset()
        elif self._ahead or self._cycles or self._unframed or len(data) > _PART:
            self._ahead += data
            self._parse()
        else:
            self._feed(data)

    def _parse(self) -> None:
        """Parse the buffered bytes, up to the end of a request that must be answered first."""
        while self._ahead and self._refusal is None and (self._in_body or not self._cycles):
            part = bytes(self._ahead[: self._unframed or _PART])
            del self._ahead[: len(part)]
            if self._unframed:
                self._take_unframed(part)
            else:
                self._feed(part)
        if len(self._ahead) > _MAX_AHEAD:
            self.flow.pause_reading()
            self._begin_to_look()

    def _feed(self, part: bytes) -> None:
        self._idle_nbytes += len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:  # which a server may ignore: RFC 9110, section 7.8
            self._ahead[:0] = part[upgrade.args[0] :]
            self._parse()
        except httptools.HttpParserError as error:
            self._refuse(refusal_of(error))
        else:
            if self._idle_nbytes > MAX_HEAD or (self.headers and len(self.headers) > _MAX_FIELDS):
                self._refuse(self._too_long())

    def _take_unframed(self, part: bytes) -> None:
        """Take a part of a body that the parser regards as another protocol."""
        self._unframed -= len(part)
        self.on_body(part)
        if not self._unframed:
            self.on_message_complete()

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a head."""
        self._unset_keepalive_if_required()
        self._requests += 1
        self._in_head = True
        self._idle_nbytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass the request on, or refuse it before its body is read."""
        nbytes = self._check_head()
        self._unframed = nbytes if self.parser.should_upgrade() else 0
        super().on_headers_complete()
        self.headers = []  # for trailers, which are ignored; the scope keeps the headers
        self._in_head, self._in_body = False, True
        self._idle_nbytes = 0
        self._cycles.append(self.cycle)
        self._shared.quiet.pop(self, None)
        if self.pipeline:
            self.flow.resume_reading()  # to notice a disconnect; received bytes are buffered up to a limit

    def _check_head(self) -> int:
        """Return the Content-Length of the body; raise ``Refusal`` for an invalid request."""
        head, body, hosts = len(self.url), 0, []
        for name, value in self.headers:
            head += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                body = int(value)
            elif name == b"transfer-encoding" and self.parser.should_upgrade():
                raise Refusal(400, "a request with Upgrade must have a Content-Length; send it without Upgrade")
        if head > MAX_HEAD or len(self.headers) > _MAX_FIELDS:
            raise self._too_long()
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise Refusal(400, f"a request must have one Host header, got {len(hosts)}")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise Refusal(400, "the Host header must be a host name or an address, and a port if there is one")
        if body > self._shared.max_request_bytes:
            raise Refusal(
                413,
                f"the body has {body} bytes, and this server allows {self._shared.max_request_bytes} "
                "(WEIGHTWELL_MAX_REQUEST_BYTES); split the manifest",
            )
        return body

    def _too_long(self) -> Refusal:
        limit = f"may have {MAX_HEAD} bytes and {_MAX_FIELDS} fields, got more"
        if self._in_body:
            return Refusal(431, f"the trailers, or a chunk header of the body, {limit}")
        if len(self.url) > MAX_HEAD // 2:
            return Refusal(414, f"the URL and the headers {limit}; POST the spec as JSON")
        return Refusal(431, f"the URL and the headers {limit}")

    def on_chunk_header(self) -> None:
        """Restart the count: a chunk has begun."""
        self._idle_nbytes = 0

    def on_body(self, body: bytes) -> None:
        """Count a part of a body."""
        self._idle_nbytes = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete, unless its body has not been parsed yet."""
        if self._unframed:
            return
        self._in_body = False
        self._idle_nbytes = 0
        super().on_message_complete()

    # Answering -----------------------------------------------------------------------------------------------------

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application and count the bytes that it sends. A disconnect is not logged as an error."""
        if not self._cycles or self._cycles[0].scope is not scope:
            return  # refused since
        cycle = self._cycles[0]

        async def send_counted(message: Any) -> None:
            if message["type"] != "http.response.start":
                nbytes = len(message.get("body", b""))
                if nbytes > SMALL:
                    await self._shared.writes.claim(nbytes)
                await send(message)
                self._sent += nbytes
                return
            if scope["client"] is not self.client:
                self._client_of(scope)
            if not cycle.more_body:
                await send(message)
                return
            # The rest of the body is not needed. Announce that the connection will be closed, and close it in
            # on_response_complete. uvicorn would close it at once, which discards the answer while the client sends.
            self._last = True
            cycle.keep_alive = False
            await send(message)
            cycle.keep_alive = True

        try:
            await self._application(scope, receive, send_counted)
        except ClientDisconnect:
            if self._refusal is None:
                log.info("%s left before the end of its body: %s", self._client_of(scope), request_line(scope))
        except asyncio.CancelledError:
            self._stop(cycle)

    def _client_of(self, scope: Any) -> str:
        """Return the client's address for the log. An invalid forwarded address is replaced in the scope."""
        if scope["client"] is not self.client and not _is_address(scope["client"][0]):
            scope["client"] = self.client
        return address(scope["client"])

    def on_response_complete(self) -> None:
        """Go on with the next request, or close the connection."""
        self._cycles.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._last:
            self._linger()
            return
        self._parse()
        if self._ended and self._cycles and self._cycles[0].more_body:
            self.transport.close()
        if self._cycles:
            return
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._ended:
            self.transport.close()
        else:
            self._shared.quiet[self] = None

    # Refusing ------------------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the newest request with a refusal, after the answers to earlier requests. Then stop reading."""
        self._refusal = refusal
        self._ahead.clear()
        if self._in_body and self._cycles:
            if self._cycles[-1].response_started:
                self._last = True
            else:
                _leave(self._cycles.pop())
                if self.pipeline:
                    self.pipeline.popleft()
        what, who = "a request", address(self.client)
        if self._in_body:
            what, who = request_line(self.scope), self._client_of(self.scope)
        log.info("refused %s of %s: %d, %s", what, who, refusal.status, refusal.detail)
        if not self._cycles:
            self._send_refusal(refusal)
        else:
            self.cycle = self._cycles[-1]

    def _send_refusal(self, refusal: Refusal) -> None:
        if not self.transport.is_closing():
            head_only = self._requests > 0 and self.parser.get_method() == b"HEAD"
            self.transport.write(refusal.encode(self.server_state.default_headers, body=not head_only))
            self._linger()

    def _linger(self) -> None:
        """Stop sending, and drop received bytes until the client closes the connection or its time is over."""
        self._lingering = True
        self._unset_keepalive_if_required()
        self._shared.quiet[self] = None
        self.flow.resume_reading()
        if self._ended or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()

    def _stop(self, cycle: RequestResponseCycle) -> None:
        """End an answer, because the server stops."""
        if cycle.disconnected or cycle.response_complete:
            return
        log.info(
            "stopped before the end of an answer to %s: %s", self._client_of(cycle.scope), request_line(cycle.scope)
        )
        _leave(cycle)
        if not cycle.response_started:
            refusal = Refusal(503, "this server is being stopped; try again")
            self.transport.write(refusal.encode(self.server_state.default_headers))
        self.transport.close()

    # Deadlines -----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> Phase | None:
        """Close the connection if its client is too slow; return the phase of a closed connection, else None."""
        phase, serial, moved = self._progress()
        rate = self._watch.overdue(phase, serial, moved, now, self._shared.deadlines)
        if rate is None or phase is None:
            return None
        self._close_slow(phase, rate)
        return phase

    def _progress(self) -> tuple[Phase | None, int, int]:
        """Return the phase, the number of its request, and the bytes that have been transferred in it."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return Phase.READER, 0, self._sent - unsent - _unacknowledged(self.transport)
        if self._lingering:
            return Phase.LINGER, 0, 0
        if self._in_body:
            return None if self.flow.read_paused else Phase.BODY, self._requests, self._received
        if not self._cycles and (self._in_head or not self._requests):
            return Phase.HEAD, self._requests, 0
        return None, 0, 0

    def _close_slow(self, phase: Phase, rate: float) -> None:
        limits = self._shared.deadlines
        if phase is Phase.HEAD and self._in_head:
            self._refuse(Refusal(408, f"the head of the request must arrive within {limits.head:g} s"))
        elif phase is Phase.BODY:
            what = f"the body arrived at {rate:.0f} bytes/s, measured over {limits.window:g} s"
            self._refuse(Refusal(408, f"{what}; the minimum is {limits.rate:g}"))
        else:
            if phase is Phase.READER:
                scope = self._cycles[0].scope if self._cycles else self.scope
                log.warning(
                    "closed a stalled connection: %s read %.0f bytes/s over %g s, the minimum is %g: %s",
                    self._client_of(scope),
                    rate,
                    limits.window,
                    limits.rate,
                    request_line(scope),
                )
            self._reset()


def _leave(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client has disconnected, and drop received bytes."""
    cycle.disconnected = True
    cycle.message_event.set()


def _is_address(host: str) -> bool:
    """Return whether a text is an IP address. A zone can be any text, so zones are not allowed."""
    try:
        return ipaddress.ip_address(host).version == 4 or "%" not in host
    except ValueError:
        return False


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return the sent bytes that the client's machine has not acknowledged, if the system reports them."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def _peer_ended(transport: asyncio.Transport) -> bool:
    """Return whether the client has closed its sending side, if the system reports it before all bytes are read."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
