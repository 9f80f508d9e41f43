"""Health checks.

They are coroutines and share no threads with other requests, so that they never wait for other requests.
"""

from typing import cast

from fastapi import APIRouter, Request

from api.http.deps import Who
from api.schemas.common import errors
from api.schemas.health import HealthCheckList
from api.services.checkup import Checkup

router = APIRouter(tags=["health"])
checks = APIRouter(prefix="/health", tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Report that the process is running."""
    return {"status": "ok"}


@router.get("/readyz", responses=errors(503))
async def ready(request: Request) -> dict[str, str]:
    """Report that the database and the object storage are available; otherwise the status is 503."""
    await request.app.state.pulse.check()
    return {"status": "ok"}


@checks.get("")
async def list_checks(request: Request, caller: Who) -> HealthCheckList:
    """Check the service's components. Problems come with what to do.

    Every key sees the workers and the base models. A key of scope `operator` also sees the database and its schema, the
    storage, the broker, the queue of all projects and the server's disk. Results are up to 10 s old.
    """
    return HealthCheckList.of(await cast(Checkup, request.app.state.checkup).checks(caller))
