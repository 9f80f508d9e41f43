"""The API's application object."""

import json
import threading
from functools import cached_property
from importlib.metadata import version

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware

from api import dashboard
from api.context import Context
from api.http import error_handlers, openapi
from api.http.authentication import Authenticate
from api.http.azure import AzureBody, AzureMount
from api.http.idempotency import Idempotency
from api.http.middleware import LimitBody, LimitUploads, OriginForm, RequestId
from api.services.health import HealthCheck
from api.services.project_limits import RequestRate
from api.services.signing import PublishedKeys
from api.settings import Settings
from api.spec.fields import JsonObject

SIGN_INS_PER_S = 10 / 60
"""Rate limit of attempts to sign in to the dashboard from one address. It protects the database,
where each attempt costs a transaction. API keys are too long to be guessed at any rate."""

DESCRIPTION = """
Every operation is also available in Azure's form: below `/openai` or `/openai/v1`, with the key in an `api-key` header.
An `api-version` in the query is ignored.

**Idempotency.** Any POST except `/v1/keys` may have an `Idempotency-Key` header (1 to 255 printable ASCII characters).
For 24 hours after a request that succeeded, the same request with the same key gets its response, with the header
`idempotent-replayed: true`. A request that was refused runs again. Another request with the same key gets a 400. While
the first request runs, a second one waits for it; if that takes long, the second one gets a 409 with `retry-after`.
Forms that differ only in their boundary are the same request.

**Errors** have the shape of `ErrorObject`. Each operation lists the errors that it can return. In addition there are
404 for an unknown path, 405 for a method that a path does not have, and 500 for a fault of the server. The server's log
describes the fault, with the response's `x-request-id`.

A retry of `POST /v1/fine_tuning/jobs` that an OpenAI client marks (`x-stainless-retry-count`) returns the job that the
same request created up to two minutes before.
"""


class Attune(FastAPI):
    _document: bytes | None = None
    _making = threading.Lock()

    def openapi(self) -> JsonObject:
        with self._making:  # a request for it and one for the documentation may be the first at the same time
            if self.openapi_schema is None:
                self.openapi_schema = openapi.complete(super().openapi())
            return self.openapi_schema

    async def show_document(self, request: Request) -> Response:
        """Return the OpenAPI document. It needs no key and takes a second to be made, so a thread of its own makes it,
        once."""
        if self._document is None:
            await anyio.to_thread.run_sync(self._make_document, limiter=self._threads)
        return Response(self._document, media_type="application/json")

    def _make_document(self) -> None:
        if self._document is None:
            self._document = json.dumps(self.openapi()).encode()

    @cached_property
    def _threads(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(1)


def create_app(settings: Settings) -> FastAPI:
    # FastAPI compiles the schemas of all endpoints on import, which takes time that only a server should spend.
    from api.routes import include_all  # noqa: PLC0415
    from api.services.checkup import Checkup  # noqa: PLC0415
    from api.services.event_stream import EventWatcher  # noqa: PLC0415
    from api.services.monitoring import Monitor  # noqa: PLC0415

    context = Context.open(settings)
    app = Attune(
        title="Attune",
        summary="A fine-tuning service that you host yourself and use with OpenAI's clients.",
        description=DESCRIPTION,
        version=version("attune"),
        openapi_url=None,  # see show_document
        docs_url=None,  # the page would load scripts from a third party's server
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(OriginForm),
            Middleware(AzureMount),
            *_cross_origin(settings.origins),
            Middleware(RequestId),
            Middleware(Authenticate, context=context, is_page=dashboard.is_page),
            Middleware(LimitBody, limit=settings.max_body_bytes, turns=context.bodies),
            Middleware(LimitUploads, turns=context.uploads),
            Middleware(AzureBody),
            Middleware(Idempotency, context=context),
        ],
    )
    app.state.context = context
    app.state.watch = EventWatcher(context)
    app.state.sign_ins = RequestRate(SIGN_INS_PER_S, "one address", burst_s=60)
    app.state.monitor = Monitor(context)
    app.state.checkup = Checkup(context)
    app.state.signing_keys = PublishedKeys(context)
    app.state.pulse = HealthCheck(settings.database, context.storage)
    error_handlers.install(app)
    app.add_route("/openapi.json", app.show_document, include_in_schema=False)
    include_all(app)
    dashboard.install(app)
    return app


def _cross_origin(origins: list[str]) -> list[Middleware]:
    """Return the middleware that lets pages of these origins use the API. It answers the browsers' preflight requests,
    which have no key, and allows no cookies."""
    if not origins:
        return []
    exposed = ["content-disposition", "content-range", "idempotent-replayed", "retry-after", "x-request-id"]
    methods = ["DELETE", "GET", "POST"]
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=exposed
        )
    ]
