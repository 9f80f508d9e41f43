from fastapi import APIRouter

from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.infra import beats
from api.schemas.workers import WorkerList
from api.services import workers

router = APIRouter(prefix="/workers", tags=["workers"], route_class=FairRoute)


@router.get("")
def list_workers(context: Ctx, caller: Who) -> WorkerList:
    """List the worker processes: live ones first, then those that ended within a day."""
    return WorkerList.of(workers.listed(context, caller), beats.seen(context.settings.broker_url))
