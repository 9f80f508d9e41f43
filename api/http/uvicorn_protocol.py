"""The HTTP protocol below the application: limits on connections, strict framing, and errors in OpenAI's shape."""

import asyncio
import http
import json
import logging
import re
import resource
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import ClassVar

import h11
import structlog
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from api.errors import InvalidRequest, RequestTimeout, ServiceError, Unavailable

log = structlog.get_logger(__name__)

HEAD_S = 10.0
"""Seconds in which a client must send the head of a request, from the start of the connection or from the end of the
previous response."""
STALL_S = 300.0
"""Seconds for which a client may read nothing of a response. The limit is long, because the kernel buffers megabytes
and accepts more only when a third of its buffer is free, which takes minutes on a slow line."""
RESERVED_FILES = 512
"""File descriptors reserved for the database, the storage, child processes and temporary files."""
WANTED_FILES = 65_536
LOG_EVERY_S = 10.0
"""Minimum seconds between log lines of the same event."""


class StrictBuffer(ReceiveBuffer):
    """h11's buffer, which also refuses heads that h11 tolerates: a line that ends in a bare LF, a folded header, or a
    second length of the body.

    A proxy in front may parse such a head differently, and then sees another request in the same bytes.
    """

    _head = bytearray()

    def _extract(self, count: int) -> bytearray:
        self._head = super()._extract(count)
        return self._head

    def maybe_extract_lines(self) -> list[bytearray] | None:
        lines = super().maybe_extract_lines()
        if lines is None:
            return None
        head, self._head = self._head, bytearray()
        if _BARE_LF.search(head):
            raise h11.LocalProtocolError("a line of the request's head ends in a bare LF")
        if _FOLDED.search(head):
            raise h11.LocalProtocolError("a header continues on a second line")
        if len(_LENGTH.findall(head)) > 1 or _LENGTHS.search(head):
            raise h11.LocalProtocolError("the request has two Content-Lengths")
        if _LENGTH.search(head) and _CHUNKED.search(head):
            raise h11.LocalProtocolError("the request gives the length of its body in two ways")
        return lines


class HttpProtocol(H11Protocol):
    """uvicorn's protocol with a limit on connections, a deadline for a request's head, and one for a client that reads
    nothing.

    At the limit, the connection that has waited longest for its client is closed: a connection without a request if
    there is one, otherwise one with an incomplete body. So clients that open connections and then send or read nothing
    never keep others out. If the responses that clients do not read take too much memory, connections of the project
    with most of it are closed, too.
    """

    max_connections: ClassVar[int] = 4096
    """Maximum number of open connections of this process."""
    idle: ClassVar[dict["HttpProtocol", None]] = {}
    """Connections that wait for their client to send a request or to read a response, oldest first."""
    max_unread_bytes: ClassVar[int] = 256 * 1024**2
    """Maximum size of the parts of responses that wait for their clients. A page of a list may have 4 MiB."""
    unread: ClassVar[dict["HttpProtocol", int]] = {}
    """{connection whose client has not read its response so far: size of what waits}, oldest first."""
    receiving: ClassVar[dict["HttpProtocol", None]] = {}
    """Connections with a request whose body is incomplete. The one whose client was silent for longest is first."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn._receive_buffer = StrictBuffer()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            oldest = next(chain(self.idle, self.receiving), None)
            if oldest is None:
                self._refuse(Unavailable("This server has no connection free", headers={"retry-after": "1"}))
                return
            oldest._drop()
            log_rate_limited(log.warning, "connections_full", max_connections=self.max_connections)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self.unread.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_deadline()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_deadline()
        self.unread[self] = self.transport.get_write_buffer_size()
        if sum(self.unread.values()) > self.max_unread_bytes:
            self._drop_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread.pop(self, None)
        self._clear_deadline()
        self._update_deadline()

    def _should_upgrade(self) -> bool:
        return False  # the API has no WebSockets

    def _update_deadline(self) -> None:
        """Start the client's deadline, or clear it while the server works on a response.

        If a part of a request's body arrives only after the response, the wait for it counts as waiting for the next
        head.
        """
        if self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused:
            self._clear_deadline()
            if self.cycle.more_body:
                self.receiving[self] = None
        else:
            self._start_deadline()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self.idle[self] = None
            self._deadline = self.loop.call_later(HEAD_S, self._on_deadline)

    def _drop_unread(self) -> None:
        """Close the connections that have waited longest, of the project with the most unread bytes at each time."""
        log_rate_limited(log.warning, "responses_not_read", max_unread_bytes=self.max_unread_bytes)
        while sum(self.unread.values()) > self.max_unread_bytes:
            sizes = Counter[str]()
            for connection, size in self.unread.items():
                sizes[connection._project] += size
            most = max(sizes, key=sizes.__getitem__)
            next(connection for connection in self.unread if connection._project == most)._drop()

    @property
    def _project(self) -> str:
        caller = self.scope["state"].get("caller")
        return "" if caller is None else str(caller.project_id)

    def _clear_deadline(self) -> None:
        self.idle.pop(self, None)
        self.receiving.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        if self.transport.get_write_buffer_size():
            # The client gets more time to read the response, also if the connection will be closed after that.
            self._deadline = self.loop.call_later(STALL_S, self._drop)
        elif bytes(self.conn._receive_buffer):
            self._refuse(RequestTimeout(f"The request's headers did not arrive within {HEAD_S:.0f} s"))
        else:
            self._drop()

    def _drop(self) -> None:
        self._clear_deadline()
        self.unread.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        self.connections.discard(self)
        self._write_error(error, error.status)

    def send_400_response(self, msg: str) -> None:
        """Send an error. The exception of h11 that is being handled may have a more precise status than 400."""
        error = sys.exception()
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        words = f"{_WORDS[400]}: {error}" if hint == 400 else _WORDS.get(hint, msg)
        self._write_error(InvalidRequest(words, code="invalid_http_request"), hint)

    def _write_error(self, error: ServiceError, status: int) -> None:
        self._clear_deadline()
        request_id, body = "req_" + secrets.token_hex(16), json.dumps(error.body()).encode()
        log_rate_limited(log.info, "not_http", status=status, request_id=request_id)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            "cache-control": "no-store",
            "x-request-id": request_id,
            **error.headers,
        }
        reason = http.HTTPStatus(status).phrase
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body)
        self.transport.close()
        self._start_deadline()  # for reading the error


class HttpServer(uvicorn.Server):
    """uvicorn's server, with a rate limit on log lines about connections that could not be accepted. asyncio would
    write thousands of them a second."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.fd is not None:
            # uvicorn takes an inherited socket for a Unix socket. asyncio then leaves TCP_NODELAY unset, and a response
            # on a kept-alive connection waits 40 ms for the client's acknowledgment. This one gets the right family.
            sockets = [socket.socket(fileno=self.config.fd)]
        logging.getLogger("uvicorn.error").addFilter(_NotHttpIsLogged())
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)


class _NotHttpIsLogged(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Invalid HTTP request received."  # `not_http` is logged instead, with status and id


def make_room(most_connections: int) -> int:
    """Raise this process's limit on open files. Return the number of connections that it allows, up to
    `most_connections`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    # A request may hold a second descriptor: the file or the socket of its response.
    return max(16, min(most_connections, (max(soft, target) - RESERVED_FILES) // 2))


def log_rate_limited(write: Callable[..., object], event: str, **fields: object) -> None:
    """Log an event at most once every LOG_EVERY_S seconds. The next line has the number of suppressed lines."""
    now, (last, suppressed) = time.monotonic(), _logged.get(event, (-LOG_EVERY_S, 0))
    if now - last < LOG_EVERY_S:
        _logged[event] = (last, suppressed + 1)
        return
    _logged[event] = (now, 0)
    write(event, **fields, **({"suppressed": suppressed} if suppressed else {}))


def _log_loop_error(loop: asyncio.AbstractEventLoop, fault: dict[str, object]) -> None:
    error = fault.get("exception")
    if "socket.accept()" in str(fault["message"]):
        log_rate_limited(log.error, "accept_failed", error=str(error))
    else:
        log.error("event_loop", message=fault["message"], exc_info=error)


_logged: dict[str, tuple[float, int]] = {}
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding[ \t]*:")
_FOLDED = re.compile(rb"\n[ \t]")
_LENGTHS = re.compile(rb"(?im)^content-length[ \t]*:[^\r\n]*,")
_WORDS = {
    400: "The data is not a valid HTTP request",
    431: "The request's headers are too large",
    501: "The request has a Transfer-Encoding other than chunked",
}
