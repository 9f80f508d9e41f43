"""HTTP before there is a request for the app: limits on connections, strict framing, and errors in OpenAI's shape."""

import asyncio
import http
import json
import logging
import re
import resource
import secrets
import sys
import time
from typing import Any, ClassVar

import h11
import structlog
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import InvalidRequest, RequestTimeout, ServiceError, Unavailable

log = structlog.get_logger(__name__)

HEAD_S = 10.0
"""How long a client may take to send a request's head, from its connection or from the end of the request before."""
STALL_S = 300.0
"""How long a client may read nothing of an answer. The kernel takes more only when a third of its buffer is free, which
has megabytes: on a slow line that takes minutes."""
RESERVED_FILES = 512
"""Descriptors that are kept for the database, the storage, children and temporary files."""
WANTED_FILES = 65_536
LOG_EVERY_S = 10.0
"""How often a flood of one kind of fault is logged."""


class StrictBuffer(ReceiveBuffer):
    """h11's, without what it forgives in a head: a line that ends in a bare LF, a folded line, and a second length.

    A proxy in front may read such a head otherwise than we do, and then sees another request in the same bytes.
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
            raise h11.LocalProtocolError("a header goes on in a second line")
        if len(_LENGTH.findall(head)) > 1 or _LENGTHS.search(head):
            raise h11.LocalProtocolError("the request says its length twice")
        if _LENGTH.search(head) and _CHUNKED.search(head):
            raise h11.LocalProtocolError("the request says in two ways how long its body is")
        return lines


class HttpProtocol(H11Protocol):
    """uvicorn's, with a deadline for a request's head, another for a client that reads nothing, and a limit on
    connections.

    Where the limit is reached, the connection that has waited for its client for longest makes room: clients that open
    connections and send or read nothing never keep others out.
    """

    most: ClassVar[int] = 4096
    """Connections of this process."""
    idle: ClassVar[dict["HttpProtocol", None]] = {}
    """Those that wait for their client, to send a request or to read an answer, the oldest first."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn._receive_buffer = StrictBuffer()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            oldest = next(iter(self.idle), None)
            if oldest is None:
                self._refuse(Unavailable("This server has no connection free", headers={"retry-after": "1"}))
                return
            oldest._drop()
            sparingly(log.warning, "connections_full", most=self.most)
        self._expect_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_client_or_work()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_client_or_work()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._client_came()
        self._expect_client_or_work()

    def _should_upgrade(self) -> bool:
        return False  # there are no WebSockets here, whatever is installed

    def _expect_client_or_work(self) -> None:
        """A request is at work until its answer is complete. The rest of its body, if any comes, counts as the next
        request's head does."""
        if self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused:
            self._client_came()
        else:
            self._expect_client()

    def _expect_client(self) -> None:
        if self._deadline is None:
            self.idle[self] = None
            self._deadline = self.loop.call_later(HEAD_S, self._client_is_late)

    def _client_came(self) -> None:
        self.idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _client_is_late(self) -> None:
        if self.transport.get_write_buffer_size():  # as well where the connection is closed as soon as that is read
            self._deadline = self.loop.call_later(STALL_S, self._drop)
        elif bytes(self.conn._receive_buffer):
            self._refuse(RequestTimeout(f"The request's headers did not come within {HEAD_S:.0f} s"))
        else:
            self._drop()

    def _drop(self) -> None:
        self._client_came()
        self.connections.discard(self)
        self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        self.connections.discard(self)
        self._write_error(error, error.status)

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled, which knows better than 400 what was wrong."""
        refused = sys.exception()
        hint = refused.error_status_hint if isinstance(refused, h11.RemoteProtocolError) else 400
        words = f"{_WORDS[400]}: {refused}" if hint == 400 else _WORDS.get(hint, msg)
        self._write_error(InvalidRequest(words, code="invalid_http_request"), hint)

    def _write_error(self, error: ServiceError, status: int) -> None:
        self._client_came()
        request_id, body = "req_" + secrets.token_hex(16), json.dumps(error.body()).encode()
        sparingly(log.info, "not_http", status=status, request_id=request_id)
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
        self._expect_client()  # to read it


class HttpServer(uvicorn.Server):
    """uvicorn's, which logs a failure to accept once in a while: asyncio logs it two thousand times a second."""

    async def startup(self, sockets: Any = None) -> None:
        logging.getLogger("uvicorn.error").addFilter(_NotHttpIsLogged())
        asyncio.get_running_loop().set_exception_handler(_log_sparingly)
        await super().startup(sockets)


class _NotHttpIsLogged(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Invalid HTTP request received."  # `not_http` has its status and its id


def make_room(most_connections: int) -> int:
    """Raise this process' limit on open files, and return how many connections fit under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # A request may hold a second descriptor: the file or the socket that its answer comes from.
    return max(16, min(most_connections, (max(soft, wanted) - RESERVED_FILES) // 2))


def sparingly(write: Any, event: str, **fields: Any) -> None:
    """Log an event, unless the same was logged a moment ago; then it is counted, and the count logged with the next."""
    now, (last, kept_back) = time.monotonic(), _logged.get(event, (-LOG_EVERY_S, 0))
    if now - last < LOG_EVERY_S:
        _logged[event] = (last, kept_back + 1)
        return
    _logged[event] = (now, 0)
    write(event, **fields, **({"kept_back": kept_back} if kept_back else {}))


def _log_sparingly(loop: asyncio.AbstractEventLoop, fault: dict[str, Any]) -> None:
    error = fault.get("exception")
    if "socket.accept()" in fault["message"]:
        sparingly(log.error, "accept_failed", error=str(error))
    else:
        log.error("event_loop", message=fault["message"], exc_info=error)


_logged: dict[str, tuple[float, int]] = {}
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding[ \t]*:")
_FOLDED = re.compile(rb"\n[ \t]")
_LENGTHS = re.compile(rb"(?im)^content-length[ \t]*:[^\r\n]*,")
_WORDS = {
    400: "What was sent is no HTTP request",
    431: "The request's headers are too large",
    501: "The request has a Transfer-Encoding other than chunked",
}
