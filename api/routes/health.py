from fastapi import APIRouter

from api.deps import Ctx
from api.schemas.common import errors

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=errors(503))
def ready(context: Ctx) -> dict[str, str]:
    """The database answers too; otherwise 503."""
    context.database.ping()
    return {"status": "ok"}
