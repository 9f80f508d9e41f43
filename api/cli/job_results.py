"""`attune jobs metrics`, `checkpoints` and `compare`: what jobs have measured and saved."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import count_fitting, format_duration, print_json, print_note, print_table
from api.cli.job_options import JobId
from api.cli.job_view import describe_score, describe_status
from api.cli.listing import After, Columns, Limit, print_listing, time_of

LOSSES = ("train_loss", "valid_loss", "full_valid_loss")
FIRST_COLUMNS = ("step", *LOSSES, "learning_rate", "grad_norm", "tokens_per_second")
"""Columns of the metrics, in this order; the other columns follow alphabetically."""
COMPARED = ("model", "training_file", "validation_file", "method", "technique", "training", "export", "seed")
"""Settings of a job that `compare` shows if they differ."""


def metrics(
    job_id: JobId,
    *,
    max_points: Annotated[
        int | None,
        typer.Option(min=2, help="Print at most this many steps, with the lowest and highest losses. Default: all."),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print the metrics of each step.

    Without a terminal, columns are separated by tabs.
    """
    with connect(base_url, api_key, data_dir) as client:
        listing = client.get(f"/fine_tuning/jobs/{segment(job_id)}/metrics", max_points=max_points)
    if as_json:
        return print_json(listing)
    points = listing["data"]
    if not points:
        return print_note("The job has no metrics yet: they begin with its first step.")
    names = _columns(points)
    rows = [[_number(point.get(name)) for name in names] for point in points]
    shown = count_fitting(names, rows)
    print_table(names[:shown], [row[:shown] for row in rows])
    if shown < len(names):
        print_note(f"Not shown, because the terminal is too narrow: {', '.join(names[shown:])}. --json has all.")
    if len(points) < listing["total_points"]:
        print_note(f"{len(points)} of {listing['total_points']:,} steps; for more: --max-points")
    return None


def checkpoints(
    job_id: JobId,
    *,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List a job's checkpoints. Each is a model to download or to chat with.

    SCORE is the share of an eval's items that passed. The best model of the job is marked.
    """
    with connect(base_url, api_key, data_dir) as client:
        found = client.listed(f"/fine_tuning/jobs/{segment(job_id)}/checkpoints", limit=limit, after=after)
    names = [name for name in LOSSES if any(name in each["metrics"] for each in found["data"])]
    evals = list(dict.fromkeys(result["eval_id"] for each in found["data"] for result in each.get("evals", ())))
    columns: Columns = {
        "STEP": "step_number",
        **{name: partial(_metric, name) for name in names},
        **{"SCORE" if len(evals) == 1 else f"SCORE {eval_id}": partial(_score, eval_id) for eval_id in evals},
        "CREATED": time_of("created_at"),
        "MODEL": "fine_tuned_model_checkpoint",
    }
    print_listing(found, columns, as_json=as_json)


def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="Two or more jobs.")],
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare jobs: the settings in which they differ, and their results."""
    with connect(base_url, api_key, data_dir) as client:
        jobs = [client.get(f"/fine_tuning/jobs/{segment(job_id)}") for job_id in job_ids]
        results = [_results(client, job) for job in jobs]
    settings = [_flat({name: job.get(name) for name in COMPARED}) for job in jobs]
    differing = [name for name in _names(settings) if len({str(each.get(name)) for each in settings}) > 1]
    if as_json:
        return print_json(
            {
                "object": "list",
                "data": [
                    {"id": job["id"], "settings": {name: own.get(name) for name in differing}, "results": result}
                    for job, own, result in zip(jobs, settings, results, strict=True)
                ],
            }
        )
    rows = [[name, *(_number(each.get(name)) for each in settings)] for name in differing]
    rows += [[name, *(_number(each.get(name)) for each in results)] for name in _names(results)]
    print_table(["", *(job["id"] for job in jobs)], rows)
    if not differing:
        print_note("The jobs have the same settings.")
    return None


def _results(client: Client, job: Document) -> dict[str, Any]:
    """Return the outcome of a job by name: its status, final and best losses, evaluation, time and tokens."""
    points = client.get(f"/fine_tuning/jobs/{segment(job['id'])}/metrics", max_points=1000)["data"]
    losses = {name: [p[name] for p in points if p.get(name) is not None] for name in ("train_loss", "valid_loss")}
    results: dict[str, Any] = {"status": describe_status(job), "steps": points[-1]["step"] if points else None}
    results["last train_loss"] = losses["train_loss"][-1] if losses["train_loss"] else None
    results["lowest valid_loss"] = min(losses["valid_loss"], default=None)
    evaluation = job.get("evaluation") or {"base": {}, "tuned": {}}
    for name, tuned in evaluation["tuned"].items():
        results[f"{name} before"], results[f"{name} after"] = evaluation["base"].get(name), tuned
    if job.get("started_at") and job.get("finished_at"):
        results["time"] = format_duration(job["finished_at"] - job["started_at"])
    results["trained tokens"] = job.get("trained_tokens")
    results["model"] = job.get("fine_tuned_model")
    return {name: value for name, value in results.items() if value is not None}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one flat object with dotted names."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, Mapping) else {f"{prefix}{name}": inner}
    return flat


def _names(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for document in documents for name in document))


def _columns(points: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all values that are numbers, the most important first."""
    names = {name for point in points for name, value in point.items() if isinstance(value, (int, float))}
    first = [name for name in FIRST_COLUMNS if name in names]
    return first + sorted(names - {*first, "total_steps"})


def _metric(name: str, checkpoint: Document) -> object:
    return _number(checkpoint["metrics"].get(name))


def _score(eval_id: str, checkpoint: Document) -> object:
    """Return the checkpoint's score by the eval. A job may run an eval several times, with different rows."""
    results = [result for result in checkpoint["evals"] if result["eval_id"] == eval_id]
    return ", ".join(describe_score(result) for result in results)


def _number(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "-" if value is None else value
