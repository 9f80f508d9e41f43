"""The API: wiring only."""

from fastapi import FastAPI
from fastapi.middleware import Middleware

from api import problems
from api.context import Context
from api.idempotency import Idempotency
from api.middleware import Authenticate, LimitBody, RequestId
from api.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    # FastAPI compiles the schemas of every endpoint when its module is imported: a cost of serving, not of importing.
    from api.routes import router  # noqa: PLC0415

    context = Context.open(settings)
    app = FastAPI(
        title="Attune",
        summary="A fine-tuning service you host yourself, spoken to with OpenAI's clients.",
        version="0.1.0",
        docs_url=None,  # its page would load scripts from a stranger's server
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestId),
            Middleware(Authenticate, context=context),
            Middleware(LimitBody, limit=settings.max_body_bytes),
            Middleware(Idempotency, context=context),
        ],
    )
    app.state.context = context
    problems.install(app)
    app.include_router(router())
    return app
