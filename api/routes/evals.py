from typing import Annotated, Literal

from fastapi import APIRouter, Query

from api.http.deps import After, Ctx, Repeated, Who
from api.http.fair_route import FairRoute
from api.schemas.common import errors
from api.schemas.evals import DeletedEval, EvalBody, EvalChange, EvalList, EvalObject
from api.services import evals

router = APIRouter(prefix="/evals", tags=["evals"], route_class=FairRoute)

Order = Literal["asc", "desc"]
OrderBy = Literal["created_at", "updated_at"]


@router.post("", responses=errors(429))
async def create_eval(body: EvalBody, context: Ctx, caller: Who, repeated: Repeated) -> EvalObject:
    """Create an eval: a schema of items, and the criteria by which its runs grade them."""
    row = await evals.create(
        context,
        caller,
        name=body.name,
        pairs=body.metadata,
        data_source=body.data_source_config,
        criteria=body.testing_criteria,
        repeated=repeated,
    )
    return EvalObject.of(row)


@router.get("")
def list_evals(
    context: Ctx,
    caller: Who,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Order = "asc",
    order_by: OrderBy = "created_at",
) -> EvalList:
    """List evals, oldest first unless `order` is `desc`."""
    newest_first = order == "desc"
    page = evals.page(context, caller, after=after, limit=limit, newest_first=newest_first, order_by=order_by)
    return EvalList.of(page.data, page.has_more)


@router.get("/{eval_id}")
def retrieve_eval(eval_id: str, context: Ctx, caller: Who) -> EvalObject:
    return EvalObject.of(evals.get(context, caller, eval_id))


@router.post("/{eval_id}")
def update_eval(eval_id: str, change: EvalChange, context: Ctx, caller: Who) -> EvalObject:
    """Change the name or the metadata. The criteria cannot be changed, so that the runs of an eval can be compared."""
    return EvalObject.of(evals.update(context, caller, eval_id, change.values))


@router.delete("/{eval_id}")
def delete_eval(eval_id: str, context: Ctx, caller: Who) -> DeletedEval:
    """Delete an eval with all its runs. Unfinished runs are stopped."""
    evals.delete(context, caller, eval_id)
    return DeletedEval(eval_id=eval_id)
