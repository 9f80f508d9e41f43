"""Authentication of every request by its API key, before the request's body is read."""

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, ServiceError, Unauthorized
from api.http.middleware import send_error
from api.infra.fair_limiter import FairLimiter
from api.records import keys
from api.services.budgets import RequestRate

PUBLIC = ("/healthz", "/readyz", "/openapi.json")
KEY_THREADS = 8
"""Threads that only look up keys, so that authentication never waits for other requests."""
KEY_WAITING = 1000
"""Requests with the same key that may wait for its lookup."""


class Authenticate:
    """Requires a valid key on every path that is not public, and sets `request.state.caller`."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app, self.context = app, context
        self._rate = RequestRate(context.settings.requests_per_second)
        self._threads = anyio.CapacityLimiter(KEY_THREADS)
        self._turns = FairLimiter("requests", total=KEY_THREADS, per_project=KEY_THREADS // 4, max_waiting=KEY_WAITING)
        """Turns by key, so that a flood of requests with one key does not delay the others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            lengths = headers.getlist("content-length")
            if len(lengths) > 1 or (lengths and "transfer-encoding" in headers):
                # A proxy could read another request from the same bytes.
                raise InvalidRequest(
                    "The request gives the length of its body twice: send one Content-Length, or a Transfer-Encoding",
                    code="ambiguous_length",
                )
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                raise InvalidRequest("The address contains a NUL character: remove it")  # PostgreSQL cannot store it
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
                "You didn't provide an API key: send it as `Authorization: Bearer YOUR_KEY` (or, to a path below "
                "/openai, as `api-key: YOUR_KEY`)"
            )
        with self.context.database.connect() as connection:
            key = keys.find_valid(connection, plain.strip())
        if key is None:
            raise Unauthorized("Incorrect API key provided: it is unknown here, revoked or expired")
        return Caller(key.project_id, key.id, key.scope)
