"""`attune jobs rerun` and `clone`: new jobs with the recipe of an earlier one."""

from typing import Annotated

import typer

from api.cli.body import change_body, parse_value
from api.cli.client import Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.files import attach_files
from api.cli.job_options import (
    Assignments,
    BatchSize,
    Epochs,
    JobId,
    LearningRate,
    MaxSteps,
    Method,
    Model,
    Rank,
    Seed,
    Suffix,
    Technique,
    Validation,
    Watch,
)
from api.cli.watch import create_job


def rerun(
    job_id: JobId,
    *,
    watch: Watch = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create the same job again, with the same files and seed.

    On the same machine, the new job trains the same model. On a CPU, its weights are the same byte for byte.
    """
    with connect(base_url, api_key, data_dir) as client:
        create_job(client, client.get(_recipe(job_id)), watch=watch, as_json=as_json)


def clone(
    job_id: JobId,
    *,
    training_file: Annotated[
        str | None, typer.Option("--file", metavar="FILE_OR_ID", help="Other training rows.")
    ] = None,
    validation: Validation = None,
    model: Model = None,
    technique: Technique = None,
    method: Method = None,
    rank: Rank = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    max_steps: MaxSteps = None,
    suffix: Suffix = None,
    seed: Seed = None,
    assignments: Assignments = None,
    watch: Watch = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a job like another one, with the given changes and a new seed."""
    fields = {
        "model": model,
        "suffix": suffix,
        "seed": seed,
        "technique.rank": rank,
        "training.learning_rate": parse_value(learning_rate),
        "training.max_steps": max_steps,
    }
    hyperparameters = {"n_epochs": parse_value(epochs), "batch_size": parse_value(batch_size)}
    with connect(base_url, api_key, data_dir) as client:
        body: Document = {name: value for name, value in client.get(_recipe(job_id)).items() if name != "seed"}
        _replace_type(body, "technique", technique)
        _replace_type(body, "method", method)
        change_body(body, fields, hyperparameters, assignments)
        attach_files(client, body, training_file, validation, for_job=True)
        create_job(client, body, watch=watch, as_json=as_json)


def _replace_type(body: Document, name: str, kind: str | None) -> None:
    """Replace the technique or method if `kind` names another type. The options of the old type are dropped, because
    they do not apply to the new type."""
    if kind is not None and body[name]["type"] != kind:
        body[name] = {"type": kind}


def _recipe(job_id: str) -> str:
    return f"/fine_tuning/jobs/{segment(job_id)}/recipe"
