from fastapi import APIRouter
from pydantic import Field

from api.http.deps import Ctx, Who
from api.schemas.common import errors
from api.schemas.graders import GradeObject, ValidGrader
from api.services import graders
from api.spec.fields import OrNull, StrictModel
from api.spec.graders import Grader

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"])


class Trial(StrictModel):
    grader: Grader
    model_sample: str
    """The answer to grade. Templates read it as `sample.output_text` and, if it is JSON, as `sample.output_json`."""
    item: OrNull[dict[str, object]] = Field(default_factory=dict)
    """The row that the prompt is from. Templates read it as `item`."""


class Candidate(StrictModel):
    grader: Grader


@router.post("/run", responses=errors(429))
async def run_grader(trial: Trial, context: Ctx, caller: Who) -> GradeObject:
    """Grade one answer as a job would."""
    return GradeObject.of(await graders.run(context, caller, trial.grader, trial.model_sample, trial.item))


@router.post("/validate", response_model_exclude_none=True, responses=errors(429))
async def validate_grader(candidate: Candidate, context: Ctx, caller: Who) -> ValidGrader:
    """Return the grader if a job can use it. Otherwise return an error that names the invalid field and, in a script,
    the line."""
    await graders.validate(context, caller, candidate.grader)
    return ValidGrader(grader=candidate.grader)
