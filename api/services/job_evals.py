"""Results of the evals of jobs: the score of each model, and which model is the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.context import Context
from api.records import eval_runs
from api.records.eval_runs import Outcome
from api.records.jobs import Job
from api.spec.evals.status import UNFINISHED, RunStatus
from api.spec.fields import JsonObject


@dataclass(frozen=True)
class EvalResult:
    """The result of an eval on the model of a job, or on one of its checkpoints."""

    eval_id: str
    run_id: str | None = None
    """None until the job succeeds, as `model`."""
    model: str | None = None
    score: float | None = None
    """Share of the items that passed; None unless the run is completed."""
    best: bool = False
    """Whether this model has the highest score. False for all models while a run of the eval is unfinished."""


def results(context: Context, listed: Sequence[Job]) -> dict[str, list[EvalResult]]:
    """Return {job: the results of its evals}. For each eval the job's model is the first, then its checkpoints."""
    run_ids = [entry["run_id"] for job in listed for entry in job.eval_runs or ()]
    outcomes: dict[str, Outcome] = {}
    if run_ids:
        with context.database.read() as session:
            outcomes = eval_runs.outcomes(session, run_ids)
    return {job.id: _of_job(job, outcomes) for job in listed}


def _of_job(job: Job, outcomes: dict[str, Outcome]) -> list[EvalResult]:
    if job.eval_runs is None:
        return [EvalResult(wanted["eval_id"]) for wanted in job.recipe.get("evals") or ()]
    best = {entry["run_id"] for group in _groups(job.eval_runs) if (entry := _best(group, outcomes))}
    return [EvalResult(**entry, score=_score(entry, outcomes), best=entry["run_id"] in best) for entry in job.eval_runs]


def _groups(begun: Sequence[JsonObject]) -> list[list[JsonObject]]:
    """Return the runs of each entry of the recipe's `evals`, which begin with the run on the job's model.

    A recipe may name an eval several times, with different rows, whose scores cannot be compared.
    """
    groups: list[list[JsonObject]] = []
    for entry in begun:
        if entry["model"] == begun[0]["model"]:
            groups.append([])
        groups[-1].append(entry)
    return groups


def _best(group: Sequence[JsonObject], outcomes: dict[str, Outcome]) -> JsonObject | None:
    """Return the run with the highest score; None while a run is unfinished, or if none is completed. Of equal scores,
    that of the job's model is the best, and then that of the newest checkpoint."""
    found = [outcomes[entry["run_id"]] for entry in group if entry["run_id"] in outcomes]
    if any(outcome.status in UNFINISHED for outcome in found):
        return None
    scores = [(score, entry) for entry in (group[0], *group[:0:-1]) if (score := _score(entry, outcomes)) is not None]
    return max(scores, key=lambda scored: scored[0])[1] if scores else None


def _score(entry: JsonObject, outcomes: dict[str, Outcome]) -> float | None:
    outcome = outcomes.get(entry["run_id"])
    if outcome is None or outcome.status != RunStatus.COMPLETED:
        return None
    return outcome.passed / outcome.total
