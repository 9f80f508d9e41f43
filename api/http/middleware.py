"""What happens around every request, before any of its body is read: an id, the caller's key, and a limit on bytes.

Plain ASGI, not FastAPI dependencies: FastAPI reads a JSON body before it resolves a dependency, so that a stranger
could send one.
"""

import asyncio
import json
import re
import secrets
import time

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import Caller, Context
from api.errors import (
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    RequestTimeout,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from api.infra.fair_limiter import FairLimiter
from api.infra.multipart import STREAMED
from api.records import keys
from api.records.database import holds_nul, is_full, is_outage
from api.services.budgets import RequestRate

log = structlog.get_logger(__name__)

PUBLIC = ("/healthz", "/readyz", "/openapi.json")
BODY_S = 60.0
"""How long a JSON body may take to come. Files have no deadline: they come at the speed of their client's line."""
ABSOLUTE = re.compile(r"https?://[^/]*", re.IGNORECASE)
KEY = re.compile(r"sk-[\w-]{8,}")
"""An API key in an address, where none belongs: no line of the log repeats it."""
KEY_THREADS = 8
"""For looking keys up, and nothing else: whatever requests wait for, the next one is let in."""
KEY_WAITING = 1000
"""Requests with one key that wait for it to be looked up."""
QUIET = ("/healthz", "/readyz")
"""Asked every few seconds by whoever watches the process: not worth a line."""


async def send_error(send: Send, error: ServiceError, request_id: str | None = None) -> None:
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        # The rest of the request's body is not read, so nothing else can follow on this connection.
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
    """Reduces a target of the absolute form (`http://user:password@host/path`), which proxies send, to its path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        absolute = ABSOLUTE.match(scope["path"]) if scope["type"] == "http" else None
        if absolute is not None:
            path = scope["path"][absolute.end() :] or "/"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


class RequestId:
    """Gives every answer an `x-request-id`, and whatever goes wrong OpenAI's error shape. Outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, began_at, status = "req_" + secrets.token_hex(16), False, time.monotonic(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers.setdefault("cache-control", "no-store")  # every answer is its caller's alone
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                if started:
                    raise  # the server cuts the connection, which tells the client that the answer is not whole
                failure = _as_service_error(error, scope)
                status = failure.status
                await send_error(send, failure, request_id)
            finally:
                if scope["path"] not in QUIET:
                    ms = round(1000 * (time.monotonic() - began_at))
                    log.info("request", method=scope["method"], path=_without_keys(scope), status=status, ms=ms)


def _without_keys(scope: Scope) -> str:
    return KEY.sub("sk-…", scope["path"])


def _as_service_error(error: Exception, scope: Scope) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, SQLAlchemyError) and is_full(error):
        log.error("database_full", error=type(error).__name__)
        return InsufficientStorage("The disk of this server's database is full")
    if isinstance(error, SQLAlchemyError) and is_outage(error):
        log.warning("database_away", error=type(error.__cause__ or error).__name__)
        return Unavailable("The database cannot be reached at the moment", headers={"retry-after": "2"})
    if isinstance(error, SQLAlchemyError) and holds_nul(error):
        return InvalidRequest("The request holds a NUL character, which cannot be stored", code="invalid_value")
    log.error("request_failed", method=scope["method"], path=_without_keys(scope), exc_info=error)
    return ServiceError("The server had an error while processing your request", code="internal_error")


class Authenticate:
    """Every path but the public ones needs a key. What it belongs to is then `request.state.caller`."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app, self.context = app, context
        self._rate = RequestRate(context.settings.requests_per_second)
        self._threads = anyio.CapacityLimiter(KEY_THREADS)
        self._turns = FairLimiter("requests", at_once=KEY_THREADS, each=KEY_THREADS // 4, waiting=KEY_WAITING)
        """By key: whoever sends hundreds of requests keeps others from none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            lengths = headers.getlist("content-length")
            if len(lengths) > 1 or (lengths and "transfer-encoding" in headers):
                # Two readers of the same bytes could see different requests in them.
                raise InvalidRequest("The request says in two ways how long its body is", code="ambiguous_length")
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                raise InvalidRequest("The address holds a NUL character")  # which no text in PostgreSQL can
            authorization = headers.get("authorization", "")
            async with self._turns.turn(authorization):
                caller = await anyio.to_thread.run_sync(self._caller, authorization, limiter=self._threads)
            self._rate.take(caller.project_id)
            if scope["method"] not in ("GET", "HEAD") and not caller.may_write:
                raise Forbidden("This key can only read")
        except ServiceError as error:
            await send_error(send, error)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _caller(self, authorization: str) -> Caller:
        kind, _, plain = authorization.partition(" ")
        if kind.lower() != "bearer" or not plain.strip():
            raise Unauthorized(
                "You didn't provide an API key: send it as `Authorization: Bearer YOUR_KEY` (or, to an address below "
                "/openai, as `api-key: YOUR_KEY`)"
            )
        with self.context.database.read() as session:
            key = keys.valid(session, plain.strip())
        if key is None:
            raise Unauthorized("Incorrect API key provided: it is unknown here, revoked or expired")
        return Caller(key.project_id, key.id, key.scope)


class LimitBody:
    """Cuts a JSON body at the limit, whatever its Content-Length says, and one that does not come."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and STREAMED.fullmatch(scope["path"])):
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit():
            await send_error(send, InvalidRequest("Content-Length is not a number"))
            return
        if int(declared[:20]) > self.limit:
            await send_error(send, self._too_large())
            return
        count, complete, refused = 0, False, False
        failure: ServiceError | None = None
        deadline = asyncio.get_running_loop().time() + BODY_S

        async def counted() -> Message:
            nonlocal count, complete, failure
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                failure = RequestTimeout(f"The request's body did not come within {BODY_S:.0f} s")
                raise failure from None
            count += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if count > self.limit:
                failure = self._too_large()
                raise failure
            return message

        async def send_or_refuse(message: Message) -> None:
            # FastAPI turns whatever is raised while it reads a body into a 400: here it becomes what it was.
            nonlocal refused
            if failure is None:
                await send(message)
            elif not refused:
                refused = True
                await send_error(send, failure)

        await self.app(scope, counted, send_or_refuse)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request's body is larger than {self.limit} bytes")
