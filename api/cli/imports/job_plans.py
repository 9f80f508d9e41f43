"""The plan of a job for `attune import push`: the same method, hyperparameters, seed and files, on a model here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from api.cli.body import apply_assignment, set_default_types
from api.cli.client import Client, Document
from api.cli.errors import CommandError, ExitCode
from api.cli.files import check_recipe
from api.cli.imports.bases import BASES, Models, describe_judges, judges_problem, with_judges_here
from api.cli.imports.folder import safe_id
from api.cli.imports.jobs import file_of

MARK = "imported_from"
"""The key of the metadata that holds the id at the source, which identifies the jobs and evals of an earlier push."""
MAX_METADATA = 16


@dataclass(frozen=True)
class JobPlan:
    old_id: str
    old_model: str
    body: Document
    """The request that creates the job here. Its files are local paths."""
    judges: str = ""
    """The graders' models at the source and here, as the plan shows them."""
    new_job: Document | None = None
    """The job here that an earlier push created."""
    problem: str | None = None
    """Why the job cannot be made; None if it can."""

    @property
    def is_open(self) -> bool:
        return self.new_job is None and self.problem is None

    def describe(self) -> str:
        """Return the plan as one line."""
        method = self.body["method"]
        options = (method.get(method["type"]) or {}).get("hyperparameters") or {}
        settings = ", ".join([method["type"], *(f"{name} {value}" for name, value in options.items())])
        outcome = f"is {self.new_job['id']} here" if self.new_job else self.problem or f"on {self.body['model']}"
        return f"{self.old_id} ({self.old_model}, {settings}{self.judges}): {outcome}"


def pushed_job(client: Client, old_id: str) -> Document | None:
    """Return the newest job here that was made from the job `old_id` of the source, or the newest successful one if
    there is any."""
    found = client.get("/fine_tuning/jobs", limit=100, **{f"metadata[{MARK}]": old_id})["data"]
    succeeded = [job for job in found if job["status"] == "succeeded"]
    return next(iter([*succeeded, *found]), None)


def plan_job(
    client: Client, folder: Path, job: Document, bases: Models, judges: Models, assignments: Sequence[str] | None
) -> JobPlan:
    """Return the plan of a job. `bases`: the models that jobs start from. `judges`: the models that graders ask."""
    body = job_body(folder, job, bases, judges)
    for assignment in assignments or []:
        apply_assignment(body, assignment)
    set_default_types(body)
    plan = JobPlan(job["id"], job["model"], body, describe_judges(job.get("method"), judges))
    if (existing := pushed_job(client, job["id"])) is not None:
        return replace(plan, new_job=existing)
    return replace(plan, problem=_problem(client, job, body, judges))


def job_body(folder: Path, job: Document, bases: Models, judges: Models) -> Document:
    """Return the request that creates a job like `job` on this server. Fields without a value are left out."""
    settings = _settings(folder, job)
    training, validation = (file_of(folder, job.get(name)) for name in ("training_file", "validation_file"))
    body = settings | {
        "model": bases.get(job["model"]),
        "training_file": training and str(training),
        "validation_file": validation and str(validation),
        "method": with_judges_here(settings["method"], judges),
        "suffix": _suffix(job),
        "metadata": {**(job.get("metadata") or {}), MARK: job["id"]},
        "integrations": None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _settings(folder: Path, job: Document) -> Document:
    """Return the whole recipe if the source reported one, or else the method and the seed."""
    recipe = folder / "jobs" / safe_id(job["id"]) / "recipe.json"
    if recipe.is_file():
        settings: Document = json.loads(recipe.read_bytes())
        return settings
    return {"method": _method(job), "seed": job.get("seed")}


def _method(job: Document) -> Document:
    """Return the method without empty values. Jobs of older clients have no method, only hyperparameters."""
    method: Document = job.get("method") or {"type": "supervised"}
    options = {name: value for name, value in (method.get(method["type"]) or {}).items() if value is not None}
    given: Mapping[str, Any] = options.get("hyperparameters") or job.get("hyperparameters") or {}
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    return {"type": method["type"], method["type"]: options | {"hyperparameters": hyperparameters}}


def _suffix(job: Document) -> str | None:
    """Return the job's suffix. OpenAI's older jobs have it only in the name of the model that they made."""
    parts = str(job.get("fine_tuned_model") or "").split(":")
    return job.get("user_provided_suffix") or (parts[3] if len(parts) == 5 and parts[3] else None)


def _problem(client: Client, job: Document, body: Document, judges: Models) -> str | None:
    if "training_file" not in body:
        return "its training file could not be fetched: give a copy of it with --set training_file=FILE"
    if job.get("validation_file") and "validation_file" not in body:
        return (
            "its validation file could not be fetched: give a copy of it with --set validation_file=FILE, or train "
            "without it (--set validation_file=null)"
        )
    if "model" not in body:
        return f"there is no model here for {job['model']}: name one in {BASES}, or first push the job that made it"
    if len(body["metadata"]) > MAX_METADATA:
        return f"its metadata has {MAX_METADATA} pairs, which leaves no room for {MARK}"
    return judges_problem(body["method"], judges) or _refusal(client, body)


def _refusal(client: Client, body: Document) -> str | None:
    """Return why the server refuses the recipe; None if it accepts it. Raise CommandError if it cannot be asked now."""
    try:
        check_recipe(client, body)
    except CommandError as refusal:
        if refusal.code != ExitCode.REFUSED:
            raise
        return refusal.message
    return None


def tuned_models_here(client: Client, jobs: Sequence[Document], names: Iterable[str]) -> Models:
    """Return {model of the source: model here} for the `names` that one of the jobs made. The model here is that of the
    pushed job, or None if there is none."""
    made = {job["fine_tuned_model"]: job["id"] for job in jobs if job.get("fine_tuned_model")}
    pushed = {name: pushed_job(client, made[name]) or {} for name in made.keys() & names}
    return {name: job.get("fine_tuned_model") for name, job in pushed.items()}
