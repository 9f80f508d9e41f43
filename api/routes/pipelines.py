from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.http.deps import After, Ctx, Who
from api.http.fair_route import FairRoute, answer_in_turn
from api.schemas.common import errors
from api.schemas.pipelines import PipelineList, PipelineObject
from api.services import pipelines
from api.spec.pipeline import Pipeline

router = APIRouter(prefix="/fine_tuning/pipelines", tags=["pipelines"], route_class=FairRoute)


@router.post("", response_model=PipelineObject, responses=errors(429))
async def create_pipeline(body: Pipeline, context: Ctx, caller: Who) -> Response:
    """Create several jobs at once, or none of them. Each may train the model of an earlier one further, or use it as
    its reward model."""
    await pipelines.require_scripts(context, caller, body)
    return await answer_in_turn(context, caller, lambda: PipelineObject.of(pipelines.create(context, caller, body)))


@router.get("")
def list_pipelines(
    context: Ctx, caller: Who, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> PipelineList:
    """List pipelines, newest first."""
    page = pipelines.page(context, caller, after=after, limit=limit)
    return PipelineList(data=[PipelineObject.of(view) for view in page.data], has_more=page.has_more)


@router.get("/{pipeline_id}")
def retrieve_pipeline(pipeline_id: str, context: Ctx, caller: Who) -> PipelineObject:
    """Return a pipeline with the jobs of its stages."""
    return PipelineObject.of(pipelines.get(context, caller, pipeline_id))


@router.post("/{pipeline_id}/cancel")
def cancel_pipeline(pipeline_id: str, context: Ctx, caller: Who) -> PipelineObject:
    """Cancel every stage that has not ended."""
    return PipelineObject.of(pipelines.cancel(context, caller, pipeline_id))
