"""Authentication of every request, before its body is read: by its API key, or by the dashboard's cookie."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
from sqlalchemy import Row
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.context import Caller, Context
from api.errors import Forbidden, InvalidRequest, ServiceError, Unauthorized
from api.http import session_cookie
from api.http.middleware import send_error
from api.http.session_cookie import SAFE_METHODS
from api.infra.fair_limiter import FairLimiter
from api.infra.signatures import KEYS_PATH
from api.records import keys, sessions
from api.services.keys import LastUses
from api.services.project_limits import RequestRate

PUBLIC = ("/healthz", "/readyz", "/openapi.json", "/metrics", KEYS_PATH)
"""Paths without an API key. `/metrics` has a token of its own (api.routes.monitoring)."""
READS = ("/v1/fine_tuning/previews", "/v1/fine_tuning/estimates")
"""POST requests that a read-only key may send, because they change nothing. They read the project's files in child
processes, under the same limits and in the same fair order for every key."""
SESSION, LINKS = "/session", "/session/links"
"""Paths of the dashboard's sign-out (DELETE) and of links that sign a browser in (POST). A read-only key may send
both."""
SIGN_INS = (SESSION, f"{LINKS}/describe", f"{LINKS}/spend")
"""Paths of the dashboard's sign-in (POST), by key and by link, which are public."""
KEY_THREADS = 8
"""Number of threads reserved for looking up keys, so that authentication never waits for the work of other requests."""
KEY_WAITING = 1000
"""Maximum number of requests with the same key that wait for its lookup."""


ValidKey = Row[str, str, str, float | None]
"""The columns project_id, id, scope and idle_s of a valid key (api.records.keys.find_valid)."""


class Authenticate:
    """Requires a valid key or cookie on every path that is not public, and sets `request.state.caller`."""

    def __init__(self, app: ASGIApp, context: Context, is_page: Callable[[str], bool]) -> None:
        """`is_page` returns whether a path belongs to the dashboard. Its pages and assets contain no data and need no
        key."""
        self.app, self.context, self._is_page = app, context, is_page
        self._uses = LastUses(context.database)
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="key-uses")
        """One thread that records when keys were used. A write that waits for a lock then delays neither requests nor
        lookups."""
        self._rate = RequestRate(context.settings.requests_per_second)
        self._threads = anyio.CapacityLimiter(KEY_THREADS)
        self._turns = FairLimiter("requests", total=KEY_THREADS, per_project=KEY_THREADS // 4, max_waiting=KEY_WAITING)
        """Shares the threads that look up keys fairly among the keys, so that a flood of requests with one key does not
        delay the others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_public(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            _require_clear_request(scope)
            authorization = Headers(scope=scope).get("authorization")
            token = session_cookie.token_of(scope) if authorization is None else None
            async with self._turns.turn(token or authorization or ""):
                find = self._of_session if token else self._of_key
                found = await anyio.to_thread.run_sync(find, token or authorization or "", limiter=self._threads)
            caller = Caller(found.project_id, found.id, found.scope)
            self._rate.take(caller.project_id)
            if scope["method"] not in SAFE_METHODS:
                if token:
                    session_cookie.require_own_page(scope)
                if not caller.may_write and scope["path"] not in (*READS, SESSION, LINKS):
                    raise Forbidden("This key can only read: use a key of scope write")
        except ServiceError as error:
            await send_error(send, error)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)
        if self._uses.is_due(caller.key_id, found.idle_s):
            self._recorder.submit(self._uses.record, caller.key_id)

    def _is_public(self, method: str, path: str) -> bool:
        if method in SAFE_METHODS and self._is_page(path):
            return True
        return path in PUBLIC or (method == "POST" and path in SIGN_INS)

    def _of_key(self, authorization: str) -> ValidKey:
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
        return key

    def _of_session(self, token: str) -> ValidKey:
        with self.context.database.connect() as connection:
            key = sessions.find_valid(connection, token)
        if key is None:
            raise Unauthorized("Your session has ended: sign in again", code="session_ended")
        return key


def _require_clear_request(scope: Scope) -> None:
    """Raise InvalidRequest for a body of unclear length and for a NUL character in the address."""
    headers = Headers(scope=scope)
    lengths = headers.getlist("content-length")
    if len(lengths) > 1 or (lengths and "transfer-encoding" in headers):
        # A proxy could use the other length, and see another request in the same bytes.
        raise InvalidRequest(
            "The request gives the length of its body twice: send one Content-Length, or a Transfer-Encoding",
            code="ambiguous_length",
        )
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise InvalidRequest("The address contains a NUL character: remove it")  # PostgreSQL cannot store it
