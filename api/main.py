"""The API: wiring only."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware

from api.context import Context
from api.http import error_handlers, openapi
from api.http.azure import AzureBody, AzureMount
from api.http.idempotency import Idempotency
from api.http.middleware import Authenticate, LimitBody, OriginForm, RequestId
from api.services.health import HealthCheck
from api.settings import Settings

DESCRIPTION = """
Every call is also there as Azure writes it: below `/openai` or `/openai/v1`, with the key in an `api-key` header, and
an `api-version` in the query, which changes nothing.

**Idempotency.** Any POST may carry an `Idempotency-Key` (1 to 255 printable ASCII
characters). For 24 hours the same request under it gets the first answer, with the header `idempotent-replayed: true`;
another request under it is refused with a 400. While the first is at work a second waits for it, and is asked with a
409 and `retry-after` to come back if that takes long. The boundary of a form is not part of the request.

**Errors** have the shape of `ErrorObject`, whatever raises them. Each call names those that it can answer with. Beside
them there are a 404 for an unknown address, a 405 for a method that an address does not have, and a 500, which is a
fault of this server: it is in its log under the answer's `x-request-id`.

A retry of `POST /v1/fine_tuning/jobs` that OpenAI's clients mark as one (`x-stainless-retry-count`) gets the job that
the same request made up to two minutes before.
"""


class Attune(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi())
        return self.openapi_schema


def create_app(settings: Settings) -> FastAPI:
    # FastAPI compiles the schemas of every endpoint when its module is imported: a cost of serving, not of importing.
    from api.routes import router  # noqa: PLC0415
    from api.services.event_stream import EventWatcher  # noqa: PLC0415

    context = Context.open(settings)
    app = Attune(
        title="Attune",
        summary="A fine-tuning service you host yourself, spoken to with OpenAI's clients.",
        description=DESCRIPTION,
        version=version("attune"),
        docs_url=None,  # its page would load scripts from a stranger's server
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(OriginForm),
            Middleware(AzureMount),
            Middleware(RequestId),
            Middleware(Authenticate, context=context),
            Middleware(LimitBody, limit=settings.max_body_bytes),
            Middleware(AzureBody),
            Middleware(Idempotency, context=context),
        ],
    )
    app.state.context = context
    app.state.watch = EventWatcher(context)
    app.state.pulse = HealthCheck(settings.database, context.storage)
    error_handlers.install(app)
    app.include_router(router())
    return app
