from typing import Any

from fastapi import APIRouter
from pydantic import Field

from api.deps import Who
from api.fields import OrNull, Strict
from api.graders import Grader
from api.schemas.graders import GradeObject, ValidGrader
from api.services import graders

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"])


class Trial(Strict):
    grader: Grader
    model_sample: str
    """The answer to grade: `sample.output_text` and, where it is JSON, `sample.output_json`."""
    item: OrNull[dict[str, Any]] = Field(default_factory=dict)
    """The row whose prompt it answers."""


class Candidate(Strict):
    grader: Grader


@router.post("/run")
def run_grader(trial: Trial, caller: Who) -> GradeObject:
    """Grade one answer, as a job would."""
    return GradeObject.of(graders.run(trial.grader, trial.model_sample, trial.item))


@router.post("/validate", response_model_exclude_none=True)
def validate_grader(candidate: Candidate, caller: Who) -> ValidGrader:
    """The grader, if a job could use it; an error that names the field, if not."""
    return ValidGrader(grader=candidate.grader)
