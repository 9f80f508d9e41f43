"""`Idempotency-Key`: a repeated POST gets the response of the first one and has no second effect.

Only successful responses are stored. A refused request has changed nothing, so it runs again, and may succeed once the
cause is removed. Another body, path or query under the same key gets a 400. While the first request runs, a second one
waits for it, and after WAIT_S gets a 409, which OpenAI's clients retry. If the first one died without a response, the
second one runs.

A form may be as large as a file and is not buffered. Its key is therefore claimed with a digest of the path and query
only. The digest of the body is computed while the body is received, and is stored with the response. A repeated form is
read to its end, because its digest must equal the stored one before the stored response is sent.
"""

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, repeat

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import Context
from api.errors import InvalidRequest, ServiceError
from api.http.form_digest import FormDigest
from api.http.request_body import read_body, replay_body
from api.infra.multipart import STREAMED
from api.records import idempotency
from api.services import project_limits

log = structlog.get_logger(__name__)

LEASE_S = 15.0
WAIT_S = 20.0
POLL_S = (0.1, 0.2, 0.4, 1.0)
"""Seconds between two looks at the first request, each of which is a transaction. The last value holds for all later
ones."""
MAX_WAITING = 32
"""Number of a project's requests that wait for first requests. Further ones get the 409 at once."""
MAX_RESPONSE_BYTES = 256 * 1024
"""Maximum length of a stored response, in bytes. Longer responses, and responses that are not JSON (streams), are not
stored. If their request is repeated, it runs again."""
UNKEPT = ("/v1/keys", "/session/links")
"""Paths that refuse an Idempotency-Key, because their responses contain a secret that must not be stored."""


REUSED = "This Idempotency-Key was used for another request: use a new key for each request"


class StillRunning(ServiceError):
    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still running: retry in 2 s",
            headers={"retry-after": "2"},
        )


class KeyReused(InvalidRequest):
    code = "idempotency_key_reused"


@dataclass(frozen=True)
class Claim:
    """The right of one request to run under an Idempotency-Key."""

    context: Context
    project_id: str
    key: str
    request: str
    owner: str

    def begin(self) -> idempotency.IdempotentRequest | None:
        """Claim the key. Return None if this request now holds the claim, else the earlier request."""
        with self.context.database.write() as session:
            earlier = idempotency.claim(
                session, self.project_id, self.key, request=self.request, owner=self.owner, lease_s=LEASE_S
            )
            if earlier is None:  # a response that is already stored needs no more space
                project_limits.require_answer(self.context, session, self.project_id)
            return earlier

    def take_over(self) -> bool:
        with self.context.database.write() as session:
            return idempotency.take_over(
                session, self.project_id, self.key, request=self.request, owner=self.owner, lease_s=LEASE_S
            )

    def renew(self) -> None:
        with self.context.database.write() as session:
            idempotency.renew(session, self.project_id, self.key, self.owner, LEASE_S)

    def settle(self, status: int, body: bytes | None, request: str | None = None) -> None:
        """Store the response, or release the key if `body` is None. `request`: the digest of a form, which is known
        only after the form has been read."""
        with self.context.database.write() as session:
            if body is None:
                idempotency.release(session, self.project_id, self.key, self.owner)
            else:
                request = request or self.request
                idempotency.store_response(
                    session, self.project_id, self.key, self.owner, request=request, status=status, body=body
                )


class Idempotency:
    """Middleware after Authenticate and LimitBody, so that the bodies that it reads are authenticated and small."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app, self.context = app, context
        self._waiting = Counter[str]()
        """{project: number of its requests that wait for first requests}."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        key = headers.get("idempotency-key")
        if key is None or scope["method"] != "POST" or "caller" not in scope.get("state", {}):
            await self.app(scope, receive, send)
            return
        content_type = headers.get("content-type", "")
        _check(key, scope["path"], content_type)
        address = (scope["path"].encode(), scope["query_string"])
        if content_type.lower().startswith("multipart/"):
            form = FormDigest(content_type, *address)
            claim = self._claim(scope, key, FormDigest("", b"form", *address).hexdigest())
        else:
            form, body = None, await read_body(receive)
            receive = replay_body(body, receive)
            claim = self._claim(scope, key, hashlib.sha256(b"\0".join((*address, body))).hexdigest())
        earlier = await self._first_or_earlier(claim, scope)
        if earlier is None:
            await self._answer(claim, scope, receive, send, form)
            return
        if form is not None:
            await form.drain(receive, self._largest_form)
        if earlier.request != (form.hexdigest() if form else claim.request):
            raise KeyReused(REUSED)
        await _replay(send, earlier)

    async def _first_or_earlier(self, claim: Claim, scope: Scope) -> idempotency.IdempotentRequest | None:
        """Return None if the request has to run, else the earlier request, with its response.

        Raise KeyReused if the earlier request is a different one, StillRunning if it has not ended after WAIT_S or too
        many others wait.
        """
        earlier = await run_in_threadpool(claim.begin)
        if earlier is None or earlier.status is not None:
            return earlier
        if self._waiting[claim.project_id] >= MAX_WAITING:
            raise StillRunning
        self._waiting[claim.project_id] += 1
        try:
            return await _awaited(claim, earlier, scope)
        finally:
            self._waiting[claim.project_id] -= 1

    @property
    def _largest_form(self) -> int:
        """Size in bytes of the largest form whose response may have been stored."""
        settings = self.context.settings
        return max(settings.max_file_bytes, settings.max_part_bytes) + MAX_RESPONSE_BYTES

    def _claim(self, scope: Scope, key: str, request: str) -> Claim:
        return Claim(self.context, scope["state"]["caller"].project_id, key, request, secrets.token_hex(16))

    async def _answer(self, claim: Claim, scope: Scope, receive: Receive, send: Send, form: FormDigest | None) -> None:
        status, keep, answer = 500, False, b""

        async def send_recorded(message: Message) -> None:
            nonlocal status, keep, answer
            if message["type"] == "http.response.start":
                status = message["status"]
                is_json = Headers(raw=message["headers"]).get("content-type", "").startswith("application/json")
                # A form that was refused before its end has no digest. Its response is not stored.
                known = form is None or form.complete
                keep = is_json and known and status < 400
            elif keep:
                answer += message.get("body", b"")
                keep = len(answer) <= MAX_RESPONSE_BYTES
                if keep and not message.get("more_body", False):
                    # Stored before the last byte is sent: a client that has the whole response can rely on a replay.
                    request = form.hexdigest() if form else None
                    await run_in_threadpool(claim.settle, status, answer, request)
            await send(message)

        try:
            async with _renewed(claim):
                await self.app(scope, form.watch(receive) if form else receive, send_recorded)
        finally:
            if not keep:
                await run_in_threadpool(claim.settle, status, None)


def _check(key: str, path: str, content_type: str) -> None:
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidRequest("Idempotency-Key must have 1 to 255 printable ASCII characters", code="invalid_key")
    if path in UNKEPT:
        raise InvalidRequest(
            "Idempotency-Key is not accepted here, because the response has a secret that is not stored: send the "
            "request without it",
            code="idempotency_key_not_accepted",
        )
    # LimitBody does not limit the bodies on these paths, so a body that is not a form must not be read into memory.
    if STREAMED.fullmatch(path) and not content_type.lower().startswith("multipart/"):
        raise InvalidRequest(
            "The body must be a form with Content-Type: multipart/form-data", code="invalid_content_type"
        )


async def _awaited(
    claim: Claim, earlier: idempotency.IdempotentRequest | None, scope: Scope
) -> idempotency.IdempotentRequest | None:
    """Wait for the end of the earlier request, and return what `_first_or_earlier` returns."""
    loop = asyncio.get_running_loop()
    give_up_at, waits_s = loop.time() + WAIT_S, chain(POLL_S, repeat(POLL_S[-1]))
    while earlier is not None and earlier.status is None:
        if earlier.request != claim.request:
            raise KeyReused(REUSED)
        if await run_in_threadpool(claim.take_over):
            scope["state"]["repeated"] = True
            return None
        if loop.time() > give_up_at:
            raise StillRunning
        await asyncio.sleep(next(waits_s))
        earlier = await run_in_threadpool(claim.begin)
    return earlier


@asynccontextmanager
async def _renewed(claim: Claim) -> AsyncIterator[None]:
    async def renew_regularly() -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await run_in_threadpool(claim.renew)
            except SQLAlchemyError as error:  # the next renewal may still be in time
                log.warning("renewal_failed", error=type(error).__name__)

    renewal = asyncio.create_task(renew_regularly())
    try:
        yield
    finally:
        renewal.cancel()


async def _replay(send: Send, earlier: idempotency.IdempotentRequest) -> None:
    body = earlier.body or b""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"idempotent-replayed", b"true"),
    ]
    await send({"type": "http.response.start", "status": earlier.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
