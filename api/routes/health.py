"""Health checks.

They are coroutines and share nothing with other requests, so that they never wait for other requests.
"""

from fastapi import APIRouter, Request

from api.schemas.common import errors

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Report that the process is running."""
    return {"status": "ok"}


@router.get("/readyz", responses=errors(503))
async def ready(request: Request) -> dict[str, str]:
    """Report that the database and the object storage are available; otherwise the status is 503."""
    await request.app.state.pulse.check()
    return {"status": "ok"}
