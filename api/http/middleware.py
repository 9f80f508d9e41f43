"""Middleware of every request, which runs before its body is read: the request id and limits.

It is plain ASGI, not FastAPI dependencies: FastAPI reads a JSON body before it resolves dependencies, so an
unauthenticated client could make the server read a large body.
"""

import asyncio
import json
import re
import secrets
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import (
    InsufficientStorage,
    InvalidRequest,
    RequestTimeout,
    ServiceError,
    TooLarge,
    Unavailable,
)
from api.infra.exhaustion import is_exhausted
from api.infra.fair_limiter import FairLimiter
from api.infra.multipart import STREAMED
from api.records.database import holds_nul, is_full, is_outage

log = structlog.get_logger(__name__)

BODY_S = 60.0
"""Seconds in which a JSON body must arrive. Files have no deadline: their clients may be slow."""
SILENCE_S = 60.0
"""Seconds for which the client of an upload may send nothing."""
LOWEST_RATE = 4 * 1024
"""Bytes a second that the client of an upload must send on average, so that every upload ends. At this rate, the
sixteen concurrent uploads of a project take half of a line of 1 Mbit/s."""
ABSOLUTE_FORM = re.compile(r"https?://[^/]*", re.IGNORECASE)
API_KEY = re.compile(r"sk-[\w-]{8,}")
"""An API key that was put into a path by mistake. The log shows `sk-…` instead."""
QUIET = ("/healthz", "/readyz", "/metrics", "/assets/")
"""Prefixes of paths whose requests are not logged: monitoring systems ask for the first three every few seconds, and
each page loads many assets at once."""

NO_SNIFFING = {"x-content-type-options": "nosniff"}
DATA_HEADERS = {
    "cache-control": "no-store",  # responses are private to the caller
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    **NO_SNIFFING,
}
"""Headers of every response except the dashboard's. A browser must never show a user's file as a page of this origin,
because scripts in the page could use the dashboard's cookie."""


async def send_error(send: Send, error: ServiceError, request_id: str | None = None) -> None:
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        # The rest of the body is not read, so the connection cannot be reused.
        "connection": "close",
        **error.headers,
    }
    if request_id is not None:
        headers["x-request-id"] = request_id
    headers.setdefault("cache-control", "no-store")
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class OriginForm:
    """Reduces a request target in absolute form (`http://user:password@host/path`), as proxies send it, to its path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        absolute = ABSOLUTE_FORM.match(scope["path"]) if scope["type"] == "http" else None
        if absolute is not None:
            path = scope["path"][absolute.end() :] or "/"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


class RequestId:
    """Gives every response an `x-request-id`, and every error OpenAI's shape. The outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, started_at, status = "req_" + secrets.token_hex(16), False, time.monotonic(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in DATA_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                if started:
                    raise  # the server closes the connection, which shows the client that the response is incomplete
                failure = _as_service_error(error, scope, request_id)
                status = failure.status
                await send_error(send, failure, request_id)
            finally:
                if not scope["path"].startswith(QUIET):
                    ms = round(1000 * (time.monotonic() - started_at))
                    log.info("request", method=scope["method"], path=_without_keys(scope), status=status, ms=ms)


def _without_keys(scope: Scope) -> str:
    return API_KEY.sub("sk-…", scope["path"])


def _as_service_error(error: Exception, scope: Scope, request_id: str) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, SQLAlchemyError) and is_full(error):
        log.error("database_full", error=type(error).__name__)
        return InsufficientStorage("The disk of this server's database is full")
    if isinstance(error, SQLAlchemyError) and is_outage(error):
        log.warning("database_unavailable", error=type(error.__cause__ or error).__name__)
        return Unavailable("The database cannot be reached at the moment: retry in 2 s", headers={"retry-after": "2"})
    if isinstance(error, SQLAlchemyError) and holds_nul(error):
        return InvalidRequest(
            "The request contains a NUL character, which cannot be stored: remove it", code="invalid_value"
        )
    if is_exhausted(error):
        log.error("machine_exhausted", error=str(error))
        return Unavailable(
            "This server has no more open files, processes or memory to give: retry in 5 s",
            headers={"retry-after": "5"},
        )
    log.error("request_failed", method=scope["method"], path=_without_keys(scope), exc_info=error)
    message = f"The server failed to process the request: report {request_id}, under which its log has the details"
    return ServiceError(message, code="internal_error")


class LimitBody:
    """Refuses JSON bodies over the limit, whatever their Content-Length is, and bodies that do not arrive in time.

    The rest of a body that arrives in several pieces is read when `turns` allows it.
    """

    def __init__(self, app: ASGIApp, limit: int, turns: FairLimiter) -> None:
        self.app, self.limit, self.turns = app, limit, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_upload(scope):
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit():
            await send_error(send, InvalidRequest("Content-Length is not a number"))
            return
        if int(declared[:20]) > self.limit:
            await send_error(send, _too_large(self.limit))
            return
        error_sent = False
        caller = scope.get("state", {}).get("caller")
        body = _Body(receive, self.limit, self.turns.turn("" if caller is None else caller.project_id))

        async def send_or_refuse(message: Message) -> None:
            # FastAPI turns every error raised while it reads a body into a 400. This sends the original error instead.
            nonlocal error_sent
            if body.failure is None:
                await send(message)
            elif not error_sent:
                error_sent = True
                await send_error(send, body.failure)

        try:
            await self.app(scope, body.receive, send_or_refuse)
        finally:
            await body.close()


class _Body:
    """The body of a request, received within limits. It holds a turn while only a part of the body has arrived."""

    def __init__(self, receive: Receive, limit: int, turn: AbstractAsyncContextManager[None]) -> None:
        self.failure: ServiceError | None = None
        self._receive, self._limit, self._turn = receive, limit, turn
        self._held, self._count, self._complete = AsyncExitStack(), 0, False
        self._start_deadline()

    async def receive(self) -> Message:
        """Return the next message of the body. Raise RequestTimeout, TooLarge or an error of FairLimiter if the body
        exceeds a limit, and keep the error in `failure`."""
        if self._complete:
            return await self._receive()
        try:
            return await self._next()
        except ServiceError as error:
            self.failure = error
            raise

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(f"The request's body did not arrive within {BODY_S:.0f} s") from None
        is_first = self._count == 0
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            raise _too_large(self._limit)
        self._complete = not message.get("more_body", False)
        if self._complete:
            await self.close()
        elif is_first and self._count:
            await self._held.enter_async_context(self._turn)
            self._start_deadline()  # the server, not the client, caused the wait
        return message

    def _start_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + BODY_S

    async def close(self) -> None:
        await self._held.aclose()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request's body is larger than {limit} bytes")


class LimitUploads:
    """Limits the uploads that a process receives at the same time, and ends an upload whose client is too slow.

    Projects take turns. An upload waits for its turn before its first byte is read.
    """

    def __init__(self, app: ASGIApp, turns: FairLimiter) -> None:
        self.app, self.turns = app, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_upload(scope):
            await self.app(scope, receive, send)
            return
        async with self.turns.turn(scope["state"]["caller"].project_id):
            await self.app(scope, _steady(receive), send)


def _is_upload(scope: Scope) -> bool:
    """Return whether the body is a form that is streamed to the storage."""
    return scope["method"] == "POST" and STREAMED.fullmatch(scope["path"]) is not None


def _steady(receive: Receive) -> Receive:
    """Return a receive function that raises RequestTimeout after SILENCE_S seconds without a byte, or when the client
    sends less than LOWEST_RATE. Only the time in which the server waits for the client counts."""
    left_s, clock = SILENCE_S, asyncio.get_running_loop().time

    async def receive_in_time() -> Message:
        nonlocal left_s
        began = clock()
        try:
            async with asyncio.timeout(min(SILENCE_S, left_s)):
                message = await receive()
        except TimeoutError:
            if left_s < SILENCE_S:
                raise RequestTimeout(
                    f"The request's body came at less than {LOWEST_RATE} bytes a second: send fewer files at once"
                ) from None
            raise RequestTimeout(f"The client sent nothing of the request's body for {SILENCE_S:.0f} s") from None
        left_s += len(message.get("body", b"")) / LOWEST_RATE - (clock() - began)
        return message

    return receive_in_time
