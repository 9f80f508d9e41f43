"""Runs and checks of a grader before a job uses it.

A child process renders templates, runs scripts and grades. If the grader asks chat models, the child runs twice, and
this process asks the models in between.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from anyio.to_thread import run_sync
from pydantic import TypeAdapter

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.services import judges
from api.services.judges import JudgeAway
from api.spec.fields import JsonObject
from api.spec.graders import Grade, GraderBase, Question, Verdict
from api.spec.recipe import Recipe

GRADE, QUESTIONS = TypeAdapter(Grade), TypeAdapter(list[Question])


class NeedsWorker(InvalidRequest):
    param = "grader"
    code = "grader_needs_worker"

    def __init__(self) -> None:
        super().__init__(
            "A grader with a reward model runs inside jobs only, because a worker has to load the model. Check the "
            "grader with /fine_tuning/alpha/graders/validate, and run the other graders of a multi grader one by one"
        )


class NoEmbeddingModel(InvalidRequest):
    """`cosine` needs an embedding model, which the operator has to name."""

    code = "no_embedding_model"


class GraderRefused(InvalidRequest):
    """The grader exceeded its limits of time or memory, or has a script that its sandbox cannot run."""


def require_embedding_model(context: Context, grader: GraderBase, param: str) -> None:
    """Raise NoEmbeddingModel if the grader needs an embedding model and there is none. `param`: the grader's field in
    the request."""
    folder = context.settings.embedding_model
    if not grader.embedding_fields or (folder is not None and (folder / "config.json").is_file()):
        return
    where = f"{param}.{grader.embedding_fields[0]}"
    if folder is None:
        raise NoEmbeddingModel(
            f"{where}: 'cosine' needs an embedding model, and this server has none: use fuzzy_match, gleu or rouge_l, "
            "or ask the operator to name one (ATTUNE_EMBEDDING_MODEL)",
            param=where,
        )
    raise NoEmbeddingModel(
        f"{where}: this server's embedding model is missing: ask the operator to check ATTUNE_EMBEDDING_MODEL",
        param=where,
    )


def require_scripts(context: Context, grader: GraderBase) -> None:
    """Raise GraderRefused if the sandbox cannot run the grader's scripts, which a child process loads.

    Raise PreviewFailed if the child process exceeds its limits.
    """
    if grader.runs_script:
        _report(context, grader, None, {})


def require_scripts_of(context: Context, recipe: Recipe) -> None:
    """Raise GraderRefused, with the field of the recipe, if the sandbox cannot run a script of the job's grader.

    Raise PreviewFailed if the child process exceeds its limits.
    """
    if recipe.method.grader is None:
        return
    try:
        require_scripts(context, recipe.method.grader)
    except GraderRefused as error:
        where = f"method.{recipe.method.type}."
        raise GraderRefused(f"{where}{error.message}", param=f"{where}{error.param}", code=error.code) from None


async def require_scripts_in_turn(context: Context, caller: Caller, recipe: Recipe) -> None:
    """Call `require_scripts_of` in the project's turn, if the grader has scripts. Raise TooBusy if the turn does not
    come in time."""
    if recipe.method.grader is not None and recipe.method.grader.runs_script:
        await context.previews.run_in_turn(caller.project_id, partial(require_scripts_of, context, recipe))


async def validate(context: Context, caller: Caller, grader: GraderBase) -> None:
    """Raise InvalidRequest if a job cannot use the grader: because of a model that cannot answer its questions, or a
    script that the sandbox cannot run. Raise PreviewFailed, TooBusy."""
    require_embedding_model(context, grader, "grader")
    await run_sync(_models, context, caller, grader)
    if grader.runs_script:
        await context.previews.run_in_turn(caller.project_id, partial(require_scripts, context, grader))


async def run(context: Context, caller: Caller, grader: GraderBase, model_sample: str, item: JsonObject) -> Grade:
    """Return the grade of an answer, in the project's turn. The limits of the child process hold for all parts of a
    multi grader together.

    Raise InvalidRequest for a model that cannot be used, NeedsWorker, GraderRefused, PreviewFailed, TooBusy, JudgeAway,
    and ConcurrencyLimitExceeded if too many gradings of the project wait.
    """
    async with context.gradings.turn(caller.project_id):
        return await _run(context, caller, grader, model_sample, item)


async def _run(context: Context, caller: Caller, grader: GraderBase, model_sample: str, item: JsonObject) -> Grade:
    require_embedding_model(context, grader, "grader")
    if any(await run_sync(_models, context, caller, grader)):
        raise NeedsWorker
    work = partial(_report, context, grader, model_sample, item)
    report = await context.previews.run_in_turn(caller.project_id, work)
    if report["grade"] is None:
        verdicts = await _ask(context, caller, QUESTIONS.validate_python(report["questions"]))
        report = await context.previews.run_in_turn(caller.project_id, partial(work, verdicts))
    return GRADE.validate_python(report["grade"])


def _models(context: Context, caller: Caller, grader: GraderBase) -> list[bool]:
    """Return, for each model that the grader names, whether it is a reward model. Raise InvalidRequest if one cannot be
    used."""
    if not grader.models():
        return []
    with context.database.read() as session:
        return [
            judges.require_model(context, session, caller, named, f"grader.{path}")
            for path, named in grader.models().items()
        ]


async def _ask(context: Context, caller: Caller, questions: Sequence[Question]) -> dict[str, Verdict]:
    """Return {key of each question: its verdict}. Raise JudgeAway if the models do not answer in time."""
    by_key, timeout_s = {question.key: question for question in questions}, context.settings.sample_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            verdicts = await asyncio.gather(*(judges.ask(context, caller, question) for question in by_key.values()))
    except TimeoutError:
        raise JudgeAway(f"The grader's models did not answer within {timeout_s:g} s: retry later") from None
    return dict(zip(by_key, verdicts, strict=True))


def _report(
    context: Context,
    grader: GraderBase,
    model_sample: str | None,
    item: JsonObject,
    verdicts: dict[str, Verdict] | None = None,
) -> JsonObject:
    request = {
        "grader": grader.model_dump(mode="json"),
        "model_sample": model_sample,
        "item": item,
        "verdicts": None if verdicts is None else {key: asdict(verdict) for key, verdict in verdicts.items()},
        "embedding_model": context.settings.embedding_folder,
    }
    report: JsonObject = json.loads(context.previews.run("worker.grade", "request.json", request))
    if report["error"] is not None:
        raise GraderRefused(**report["error"])
    return report
