"""Graders, tried out before a job: on one answer, without a worker."""

from typing import Any

from api.errors import InvalidRequest
from api.graders import Grade, GraderBase, grade


class NeedsWorker(InvalidRequest):
    param = "grader"
    code = "grader_needs_worker"

    def __init__(self) -> None:
        super().__init__(
            "A score_model grader runs inside jobs only: a worker has to load its reward model. Check it with "
            "/fine_tuning/alpha/graders/validate, and run the other graders of a multi grader one by one"
        )


def run(grader: GraderBase, model_sample: str, item: dict[str, Any]) -> Grade:
    if grader.needs_model:
        raise NeedsWorker
    return grade(grader, model_sample, item)
