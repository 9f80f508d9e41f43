"""`attune import push`: make the jobs and evals of a folder on this server. Nothing is made twice.

The server itself holds what was pushed: files are found by their hash, jobs and evals by `imported_from` in their
metadata. If a command is killed between a request and its response, the idempotency key keeps the next command from
creating the same object again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from api.cli.client import Client, Document
from api.cli.errors import CommandError, ExitCode
from api.cli.files import attach_files
from api.cli.imports.bases import complete_bases, complete_judges, models_in
from api.cli.imports.eval_plans import EvalPlan, plan_evals, read_evals
from api.cli.imports.fetch import JOBS
from api.cli.imports.folder import digest_of, read_lines
from api.cli.imports.job_plans import JobPlan, plan_job, tuned_models_here
from api.cli.imports.jobs import read_jobs


@dataclass(frozen=True)
class Plan:
    jobs: Sequence[JobPlan]
    evals: Sequence[EvalPlan]

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        return [*(each.describe() for each in self.jobs), *(each.describe() for each in self.evals)]

    @property
    def open_jobs(self) -> list[JobPlan]:
        return [plan for plan in self.jobs if plan.is_open]

    @property
    def open_evals(self) -> list[EvalPlan]:
        return [plan for plan in self.evals if plan.is_open]


def make_plan(client: Client, folder: Path, chosen: Sequence[str] | None, assignments: Sequence[str] | None) -> Plan:
    """Return the plan for the chosen jobs and for all evals. The tables of models (bases.json, judges.json) are
    completed first."""
    every, jobs, evals = read_lines(folder / JOBS), read_jobs(folder, chosen), read_evals(folder)
    starts = {job["model"] for job in every}
    asked = models_in([job.get("method") for job in jobs]) | models_in([each["testing_criteria"] for each in evals])
    tuned = tuned_models_here(client, every, starts | asked)
    catalog = client.get("/fine_tuning/catalog")
    bases = {**complete_bases(folder, starts - tuned.keys(), catalog), **tuned}
    judges = {**complete_judges(folder, asked - tuned.keys(), catalog), **tuned}
    return Plan(
        [plan_job(client, folder, job, bases, judges, assignments) for job in jobs],
        [*plan_evals(client, evals, judges)],
    )


def push(client: Client, plan: Plan) -> Document:
    """Create the open jobs and evals, and return a report.

    If the server refuses one, the others are created nevertheless. Raise CommandError if the server fails; the plan can
    then be pushed again.
    """
    return {
        "object": "import.push",
        "target": client.base_url,
        "jobs": [_push_job(client, each) for each in plan.jobs],
        "evals": [_push_eval(client, each) for each in plan.evals],
    }


def _push_job(client: Client, plan: JobPlan) -> Document:
    job, problem = plan.new_job, plan.problem
    if plan.is_open:
        job, problem = _made(lambda: _create_job(client, plan))
    return {"old": plan.old_id, "new": job and job["id"], "model": plan.body.get("model"), "problem": problem}


def _push_eval(client: Client, plan: EvalPlan) -> Document:
    new_id, problem = plan.new_id, plan.problem
    if plan.is_open:
        made, problem = _made(lambda: _create(client, "/evals", plan.old_id, plan.body))
        new_id = None if made is None else str(made["id"])
    return {"old": plan.old_id, "new": new_id, "problem": problem}


def _made(create: Callable[[], Document]) -> tuple[Document | None, str | None]:
    """Return what was made, or why the server refuses to make it. Raise CommandError if it cannot be asked now."""
    try:
        return create(), None
    except CommandError as refusal:
        if refusal.code != ExitCode.REFUSED:
            raise
        return None, refusal.message


def _create_job(client: Client, plan: JobPlan) -> Document:
    body = dict(plan.body)
    attach_files(client, body, None, None)
    return _create(client, "/fine_tuning/jobs", plan.old_id, body)


def _create(client: Client, path: str, old_id: str, body: Document) -> Document:
    return client.post(path, body, idempotency_key=f"attune-import-{old_id}-{digest_of(body)[:16]}")
