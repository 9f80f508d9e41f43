from fastapi import APIRouter

from api.deps import Ctx

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(context: Ctx) -> dict[str, str]:
    """The database answers too; otherwise 503."""
    context.database.ping()
    return {"status": "ok"}
