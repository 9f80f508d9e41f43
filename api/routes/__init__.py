"""Routes: each reads a request, calls a service and returns its result."""

from functools import cache
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute

from api.http.deps import only_known_query
from api.routes import (
    batches,
    catalog,
    completions,
    eval_runs,
    evals,
    files,
    graders,
    health,
    jobs,
    keys,
    live,
    models,
    monitoring,
    permissions,
    pipelines,
    previews,
    sessions,
    signing_keys,
    uploads,
    usage,
    webhooks,
    workers,
)
from api.schemas.common import errors


def include_all(app: FastAPI) -> None:
    app.router.routes.extend(_included())


@cache
def _included() -> list[BaseRoute]:
    """Return the routes of all routers. All apps of a process share them, since FastAPI compiles each inclusion of a
    router anew.

    Routes are searched in order, so the most used routers come first. Each router is included directly, because nested
    routers would be searched twice.
    """
    parent = APIRouter()
    shared: dict[str, Any] = {"responses": errors(400), "dependencies": [Depends(only_known_query)]}
    busiest = (jobs, live, files, uploads, models, completions, batches)
    for part in (*busiest, evals, eval_runs, catalog, graders, permissions, previews, pipelines, keys, usage, workers):
        parent.include_router(part.router, prefix="/v1", **shared)
    parent.include_router(health.checks, prefix="/v1", **shared)
    parent.include_router(webhooks.router, prefix="/v1/webhook_endpoints", **shared)
    parent.include_router(webhooks.types, prefix="/v1", **shared)
    parent.include_router(webhooks.router, prefix="/v1/webhooks", include_in_schema=False, **shared)
    for router in (sessions.router, sessions.authenticated, health.router, signing_keys.router, monitoring.router):
        parent.include_router(router, **shared)
    return parent.routes
