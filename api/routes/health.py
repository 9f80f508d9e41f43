"""Coroutines that share nothing with other requests: whatever those wait for, these are answered."""

from fastapi import APIRouter, Request

from api.schemas.common import errors

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=errors(503))
async def ready(request: Request) -> dict[str, str]:
    """The database answers too, and the folder of the objects is there, if it is one; otherwise 503."""
    await request.app.state.pulse.check()
    return {"status": "ok"}
