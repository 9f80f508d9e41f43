"""A grader run on one answer, before a job uses it."""

import json
from functools import partial

from pydantic import TypeAdapter

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.spec.fields import JsonObject
from api.spec.graders import Grade, GraderBase
from api.spec.recipe import Recipe

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


class GraderRefused(InvalidRequest):
    """The grader exceeded its limits of time or memory, or has a script that its sandbox cannot run."""


def require_scripts(context: Context, grader: GraderBase) -> None:
    """Raise GraderRefused if the sandbox cannot run the grader's scripts. A child process loads them. Raise
    PreviewFailed."""
    if grader.runs_script:
        _report(context, grader, None, {})


def require_scripts_of(context: Context, recipe: Recipe) -> None:
    """Raise GraderRefused, with the recipe's field, if the sandbox cannot run a script of the job's grader. Raise
    PreviewFailed."""
    if recipe.method.grader is None:
        return
    try:
        require_scripts(context, recipe.method.grader)
    except GraderRefused as error:
        where = f"method.{recipe.method.type}."
        raise GraderRefused(f"{where}{error.message}", param=f"{where}{error.param}", code=error.code) from None


async def require_scripts_in_turn(context: Context, caller: Caller, recipe: Recipe) -> None:
    """Do the same in the project's turn, if there are scripts. Raise TooBusy."""
    if recipe.method.grader is not None and recipe.method.grader.runs_script:
        await context.previews.run_in_turn(caller.project_id, partial(require_scripts_of, context, recipe))


def run(context: Context, grader: GraderBase, model_sample: str, item: JsonObject) -> Grade:
    """Return the grade of an answer. A child process grades; its limits hold for all parts of a multi grader together.

    Raise NeedsWorker, GraderRefused, PreviewFailed.
    """
    if grader.needs_model:
        raise NeedsWorker
    return GRADE.validate_python(_report(context, grader, model_sample, item)["grade"])


def _report(context: Context, grader: GraderBase, model_sample: str | None, item: JsonObject) -> JsonObject:
    request = {"grader": grader.model_dump(mode="json"), "model_sample": model_sample, "item": item}
    report: JsonObject = json.loads(context.previews.run("worker.grade", "request.json", request))
    if report["error"] is not None:
        raise GraderRefused(**report["error"])
    return report
