"""A grader run on one answer, before a job uses it."""

import json

from pydantic import TypeAdapter

from api.context import Context
from api.errors import InvalidRequest
from api.spec.fields import JsonObject
from api.spec.graders import Grade, GraderBase

GRADE = TypeAdapter(Grade)


class NeedsWorker(InvalidRequest):
    param = "grader"
    code = "grader_needs_worker"

    def __init__(self) -> None:
        super().__init__(
            "A score_model grader runs inside jobs only, because a worker has to load its reward model. Check the "
            "grader with "
            "/fine_tuning/alpha/graders/validate, and run the other graders of a multi grader one by one"
        )


class TooSlow(InvalidRequest):
    """The grader exceeded its limits of time or memory."""


def run(context: Context, grader: GraderBase, model_sample: str, item: JsonObject) -> Grade:
    """Return the grade of an answer. A child process grades; its limits hold for all parts of a multi grader together.

    Raise NeedsWorker, TooSlow, PreviewFailed.
    """
    if grader.needs_model:
        raise NeedsWorker
    request = {"grader": grader.model_dump(mode="json"), "model_sample": model_sample, "item": item}
    report = json.loads(context.previews.run("worker.grade", "request.json", request))
    if report["error"] is not None:
        raise TooSlow(**report["error"])
    return GRADE.validate_python(report["grade"])
