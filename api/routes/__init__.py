"""HTTP only: who, what, where to. Decisions are in the services."""

from fastapi import APIRouter, Depends

from api.deps import only_known_query
from api.routes import catalog, files, graders, health, jobs, models, previews, uploads
from api.schemas import ErrorObject

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorObject} for status in (400, 401, 403, 404, 405, 413, 429, 500, 503)
}


def router() -> APIRouter:
    root = APIRouter(responses=ERRORS, dependencies=[Depends(only_known_query)])
    for part in (catalog, files, uploads, graders, jobs, previews, models):
        root.include_router(part.router, prefix="/v1")
    root.include_router(health.router)
    return root
