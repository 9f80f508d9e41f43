from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.http.deps import After, Ctx, Repeated, Who
from api.http.fair_route import FairRoute
from api.routes.evals import Order
from api.schemas.common import errors
from api.schemas.evals import (
    DeletedRun,
    OutputItemList,
    OutputItemObject,
    PublicStatus,
    RunBody,
    RunList,
    RunObject,
    as_run_status,
)
from api.services import eval_runs
from api.spec.evals.status import ItemStatus

router = APIRouter(prefix="/evals/{eval_id}/runs", tags=["evals"], route_class=FairRoute)

Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("", responses=errors(429))
def create_run(
    eval_id: str, body: RunBody, context: Ctx, caller: Who, repeated: Repeated, request: Request
) -> RunObject:
    """Grade rows in the background. With a data source of type `completions`, a model answers each row first; with
    `jsonl`, the rows are graded as they are."""
    run = eval_runs.create(
        context, caller, eval_id, name=body.name, pairs=body.metadata, source=body.data_source, repeated=repeated
    )
    return RunObject.of(run, _server(request))


@router.get("")
def list_runs(
    eval_id: str,
    context: Ctx,
    caller: Who,
    request: Request,
    status: PublicStatus | None = None,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> RunList:
    """List the runs of an eval, oldest first unless `order` is `desc`."""
    page = eval_runs.page(
        context,
        caller,
        eval_id,
        status=as_run_status(status),
        after=after,
        limit=limit,
        newest_first=order == "desc",
    )
    return RunList.of(page.data, page.has_more, _server(request))


@router.get("/{run_id}")
def retrieve_run(eval_id: str, run_id: str, context: Ctx, caller: Who, request: Request) -> RunObject:
    return RunObject.of(eval_runs.get(context, caller, eval_id, run_id), _server(request))


@router.post("/{run_id}", deprecated=True)  # the address that older clients use
@router.post("/{run_id}/cancel")
def cancel_run(eval_id: str, run_id: str, context: Ctx, caller: Who, request: Request) -> RunObject:
    """Cancel a run at once. The results so far are kept."""
    return RunObject.of(eval_runs.cancel(context, caller, eval_id, run_id), _server(request))


@router.delete("/{run_id}")
def delete_run(eval_id: str, run_id: str, context: Ctx, caller: Who) -> DeletedRun:
    """Delete a run with its results."""
    eval_runs.delete(context, caller, eval_id, run_id)
    return DeletedRun(run_id=run_id)


@router.get("/{run_id}/output_items")
def list_output_items(
    eval_id: str,
    run_id: str,
    context: Ctx,
    caller: Who,
    status: ItemStatus | None = None,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> OutputItemList:
    """List the graded items of a run, in the order of their rows unless `order` is `desc`."""
    run, page = eval_runs.items(
        context, caller, eval_id, run_id, status=status, after=after, limit=limit, newest_first=order == "desc"
    )
    return OutputItemList.of(page.data, page.has_more, run)


@router.get("/{run_id}/output_items/{output_item_id}")
def retrieve_output_item(eval_id: str, run_id: str, output_item_id: str, context: Ctx, caller: Who) -> OutputItemObject:
    run, item = eval_runs.item(context, caller, eval_id, run_id, output_item_id)
    return OutputItemObject.of(item, run)


def _server(request: Request) -> str:
    """Return the address by which the client reached this server."""
    return f"{request.url.scheme}://{request.url.netloc}"
