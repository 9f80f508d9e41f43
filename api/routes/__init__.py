"""Routes: each reads a request, calls a service and returns its result."""

from fastapi import APIRouter, Depends

from api.http.deps import only_known_query
from api.routes import (
    catalog,
    completions,
    files,
    graders,
    health,
    jobs,
    live,
    models,
    permissions,
    pipelines,
    previews,
    uploads,
    webhooks,
)
from api.schemas.common import errors


def router() -> APIRouter:
    root = APIRouter(responses=errors(400), dependencies=[Depends(only_known_query)])
    for part in (catalog, files, uploads, graders, jobs, live, permissions, previews, models, pipelines, completions):
        root.include_router(part.router, prefix="/v1")
    root.include_router(webhooks.router, prefix="/v1/webhook_endpoints")
    root.include_router(webhooks.router, prefix="/v1/webhooks", include_in_schema=False)
    root.include_router(health.router)
    return root
