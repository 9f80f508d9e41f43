from functools import partial
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from api.http.deps import Ctx, Who
from api.schemas.common import errors
from api.schemas.previews import EstimateObject, PreviewObject
from api.services import estimates, previews
from api.spec.recipe import Recipe

router = APIRouter(prefix="/fine_tuning", tags=["fine-tuning"])


class PreviewRequest(Recipe):
    rows: Annotated[int, Field(ge=1, le=20)] = 5
    """The number of rows, from the start of the file."""


@router.post("/previews", responses=errors(429))
async def preview_rows(body: PreviewRequest, context: Ctx, caller: Who) -> PreviewObject:
    """Show the first rows of a training file as the model will see them: text, tokens, loss weights, truncation."""
    preview = partial(previews.preview, context, caller, body, body.rows)
    report = await context.previews.run_in_turn(caller.project_id, preview)
    return PreviewObject(
        model=body.model,
        training_file=body.training_file,
        format=report["format"],
        container=report["container"],
        max_length=None if body.training.max_length == "auto" else body.training.max_length,
        rows=report["rows"],
        findings=report["findings"],
    )


@router.post("/estimates", responses=errors(429))
async def estimate_job(recipe: Recipe, context: Ctx, caller: Who) -> EstimateObject:
    """Estimate a job's memory and time, and whether it would be accepted. Nothing is created."""
    estimate = partial(estimates.estimate, context, caller, recipe)
    return EstimateObject.model_validate(await context.previews.run_in_turn(caller.project_id, estimate))
