from typing import Annotated

from fastapi import APIRouter, Query

from api.http.deps import After, Ctx, Repeated, Who
from api.http.fair_route import FairRoute
from api.schemas.batches import BatchBody, BatchList, BatchObject
from api.schemas.common import errors
from api.services import batches

router = APIRouter(prefix="/batches", tags=["batches"], route_class=FairRoute)


@router.post("", responses=errors(429))
def create_batch(body: BatchBody, context: Ctx, caller: Who, repeated: Repeated) -> BatchObject:
    """Answer the requests of a file in the background, within 24 hours.

    The file has purpose `batch`; each line is `{"custom_id", "method": "POST", "url", "body"}`. A batch with an invalid
    line fails before any request is answered. A request with an invalid `body` has its error in the error file.
    """
    expires = body.output_expires_after
    batch = batches.create(
        context,
        caller,
        input_file=body.input_file_id,
        endpoint=body.endpoint,
        pairs=body.metadata,
        output_expires_s=None if expires is None else expires.seconds,
        repeated=repeated,
    )
    return BatchObject.of(batch)


@router.get("")
def list_batches(
    context: Ctx, caller: Who, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> BatchList:
    """List batches, newest first."""
    page = batches.page(context, caller, after=after, limit=limit)
    return BatchList.of(page.data, page.has_more)


@router.get("/{batch_id}")
def retrieve_batch(batch_id: str, context: Ctx, caller: Who) -> BatchObject:
    return BatchObject.of(batches.get(context, caller, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, context: Ctx, caller: Who) -> BatchObject:
    """Cancel a batch at once. The output file then has the answers so far, and the error file has an error for
    each other request."""
    return BatchObject.of(batches.cancel(context, caller, batch_id))
