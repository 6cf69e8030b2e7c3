"""The protocol: uvicorn's own for HTTP/1.1, with limits.

Uvicorn parses with httptools and calls the application. It has no deadlines except for idle connections, keeps any
number of bytes of a head or a trailer, and notices that a client has gone only if that client sent nothing after its
request. This subclass adds the limits, and answers with a problem what it refuses.
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

from weightwell_service.server.connections import Connections
from weightwell_service.server.deadlines import Phase, Watch
from weightwell_service.server.log import address, request_line
from weightwell_service.server.refusal import Refusal, refusal_of

if sys.platform != "win32":
    import fcntl
    import termios

log = logging.getLogger(__name__)

# Bytes of the head of a request. The same number bounds all that the parser takes without giving a part of a body for
# it: trailers and the extensions of chunks.
MAX_HEAD = 2**16

# Header fields of a request. Each takes 30 times as much memory as it may have bytes.
_MAX_FIELDS = 256

# Bytes that the parser gets at once. Between two parts there is a check whether the next request may be parsed already.
_PART = 2**13

# Bytes that are kept of the requests that follow one that is being answered.
_MAX_AHEAD = 2**16

# Bytes that are dropped of a client that still sends after a refusal, before the connection is reset.
_MAX_DROPPED = 2**23

# A host, perhaps with a port: what RFC 3986 allows in an authority, without the user.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

# Seconds between two looks for a client that has closed its sending side: the first, and the longest.
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, shared: Connections, **options: Any):
        super().__init__(*arguments, **options)
        self._shared = shared
        self._application, self.app = self.app, self._call
        self._watch = Watch()
        self._ahead = bytearray()  # received and not parsed
        self._cycles: deque[RequestResponseCycle] = deque()  # requests without a complete answer, in order
        self._requests = 0
        self._in_head = self._in_body = False
        self._idle_nbytes = 0  # fed to the parser since it called back
        self._received = self._sent = 0  # bytes of bodies
        self._unframed = 0  # bytes of a body that the parser does not take: the request wishes to upgrade
        self._refusal: Refusal | None = None
        self._lingering = False
        self._dropped = 0
        self._ended = False  # the client sends no more
        self._looking = False  # whether a client that sends no more still reads
        self._last = False  # nothing is answered after the request that is being answered

    # The connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; the oldest one without a request makes room for it if there are too many."""
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
        """See whether a client that sends no more still reads.

        A client that has gone and one that has closed its sending side look the same until something is sent to them.
        So send an interim response, which clients of HTTP/1.1 have to ignore. If nobody is there it is answered with a
        reset, and the next write fails.
        """
        if self.transport.is_closing() or not self._cycles:
            self._looking = False
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
        """Close the connection now, and drop what the kernel has for a client that does not read it."""
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
        """Keep what was received, and parse it unless a request before it is being answered."""
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
        """Parse what was received, up to the end of a request that is to be answered first."""
        while self._ahead and self._refusal is None and (self._in_body or not self._cycles):
            part = bytes(self._ahead[: self._unframed or _PART])
            del self._ahead[: len(part)]
            if self._unframed:
                self._take_unframed(part)
            else:
                self._feed(part)
        if len(self._ahead) > _MAX_AHEAD:
            self.flow.pause_reading()

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
        """Take a part of a body that the parser believes to be of another protocol."""
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
        """Pass the request on, or refuse it before its body is asked for."""
        nbytes = self._check_head()
        self._unframed = nbytes if self.parser.should_upgrade() else 0
        super().on_headers_complete()
        self.headers = []  # for trailers, which mean nothing here; the scope keeps the headers
        self._in_head, self._in_body = False, True
        self._idle_nbytes = 0
        self._cycles.append(self.cycle)
        self._shared.quiet.pop(self, None)
        if self.pipeline:
            self.flow.resume_reading()  # to notice that the client goes; what it sends is kept up to a limit

    def _check_head(self) -> int:
        """Return the length that the body is said to have; raise ``Refusal``."""
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
        """Count anew: a chunk has begun."""
        self._idle_nbytes = 0

    def on_body(self, body: bytes) -> None:
        """Count a part of a body."""
        self._idle_nbytes = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole, unless the parser has not been given its body."""
        if self._unframed:
            return
        self._in_body = False
        self._idle_nbytes = 0
        super().on_message_complete()

    # Answering -----------------------------------------------------------------------------------------------------

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application: count the bytes of bodies, and end quietly what ends because the connection does."""
        if not self._cycles or self._cycles[0].scope is not scope:
            return  # refused since
        cycle = self._cycles[0]
        held = 0

        async def receive_counted() -> Any:
            nonlocal held
            message = await receive()
            if nbytes := len(message.get("body", b"")):
                self._shared.hold(nbytes)
                held += nbytes
            return message

        async def send_counted(message: Any) -> None:
            nonlocal held
            if message["type"] != "http.response.start":
                await send(message)
                self._sent += len(message.get("body", b""))
                return
            self._shared.release(held)
            held = 0
            if scope["client"] is not self.client:
                self._client_of(scope)
            if not cycle.more_body:
                await send(message)
                return
            # The rest of the body is not wanted. Say that the connection will be closed, and close it in
            # on_response_complete: uvicorn would do it at once, which destroys the answer while the client sends.
            self._last = True
            cycle.keep_alive = False
            await send(message)
            cycle.keep_alive = True

        try:
            await self._application(scope, receive_counted if cycle.more_body or cycle.body else receive, send_counted)
        except ClientDisconnect:
            if self._refusal is None:
                log.info("%s left before the end of its body: %s", self._client_of(scope), request_line(scope))
        except asyncio.CancelledError:
            self._stop(cycle)
        finally:
            self._shared.release(held)

    def _client_of(self, scope: Any) -> str:
        """Return the client's address for the log. A forwarded one that is no address is replaced in the scope."""
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
        """Answer the newest request with a refusal, after the answers to those before it, and read no more."""
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
        """Send no more, and drop what the client still sends, until it closes or has had its time."""
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
        """Close the connection if its client is too slow; return the phase in which it was."""
        phase, serial, moved = self._progress()
        rate = self._watch.overdue(phase, serial, moved, now, self._shared.deadlines)
        if self.flow.read_paused and self._cycles and not self._looking and _peer_ended(self.transport):
            self._begin_to_look()
        if rate is None or phase is None:
            return None
        self._close_slow(phase, rate)
        return phase

    def _progress(self) -> tuple[Phase | None, int, int]:
        """Return the phase, which request it belongs to, and the bytes that have been moved for it."""
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
    """Let the application know that the client has gone, and drop what it still sends."""
    cycle.disconnected = True
    cycle.message_event.set()


def _is_address(host: str) -> bool:
    """Return whether a text is an IP address. The zone that one may have can be any text, so none is allowed."""
    try:
        return ipaddress.ip_address(host).version == 4 or "%" not in host
    except ValueError:
        return False


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return the bytes in the kernel that the client's machine has not yet acknowledged, where the system says so."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def _peer_ended(transport: asyncio.Transport) -> bool:
    """Return whether the client has closed its sending side, where the system says so before all has been read."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
