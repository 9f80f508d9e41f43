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
    """How many of the file's first rows."""


@router.post("/previews", responses=errors(429))
async def preview_rows(asked: PreviewRequest, context: Ctx, caller: Who) -> PreviewObject:
    """The first rows of a job's training file as the model will see them: text, tokens, loss, cut."""
    look = partial(previews.preview, context, caller, asked, asked.rows)
    report = await context.previews.in_turn(caller.project_id, look)
    return PreviewObject(
        model=asked.model,
        training_file=asked.training_file,
        format=report["format"],
        container=report["container"],
        max_length=None if asked.training.max_length == "auto" else asked.training.max_length,
        rows=report["rows"],
        findings=report["findings"],
    )


@router.post("/estimates", responses=errors(429))
async def estimate_job(recipe: Recipe, context: Ctx, caller: Who) -> EstimateObject:
    """What a job of this body would take, and whether it would be allowed. Nothing is created."""
    estimate = partial(estimates.estimate, context, caller, recipe)
    return EstimateObject.model_validate(await context.previews.in_turn(caller.project_id, estimate))
