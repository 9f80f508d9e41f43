"""`attune estimate` and `attune preview`: a job's cost and its rows as the model sees them, before the job exists."""

from typing import Annotated

import typer

from api.cli.body import job_body, parse_value, require_model_and_file
from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_duration, format_size, plural, print_fields, print_json, print_line
from api.cli.errors import ExitCode
from api.cli.files import attach_files
from api.cli.findings import count_errors, print_findings
from api.cli.job_options import (
    Assignments,
    BatchSize,
    BodyFile,
    Epochs,
    JobCommand,
    MaxSteps,
    Method,
    Model,
    Rank,
    Technique,
    TrainingFile,
    Validation,
)

estimate_app = typer.Typer(add_completion=False)
preview_app = typer.Typer(add_completion=False)


@estimate_app.command(
    cls=JobCommand, epilog="Example: attune estimate rows.jsonl --model smollm2-135m-instruct --technique full"
)
def estimate(
    training_file: TrainingFile = None,
    *,
    model: Model = None,
    validation: Validation = None,
    technique: Technique = None,
    method: Method = None,
    rank: Rank = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    max_steps: MaxSteps = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Estimate a job's memory, steps and time, and check whether it would be accepted.

    The exit code is 2 if the job would be refused.
    """
    fields = {"model": model, "technique.type": technique, "technique.rank": rank, "method.type": method}
    fields |= {"training.max_steps": max_steps}
    hyperparameters = {"n_epochs": parse_value(epochs), "batch_size": parse_value(batch_size)}
    body = job_body(body_file, fields, hyperparameters, assignments)
    require_model_and_file(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        attach_files(client, body, training_file, validation)
        report = client.post("/fine_tuning/estimates", body)
    if as_json:
        print_json(report)
    else:
        print_fields(_estimate_fields(report))
    if not report["allowed"]:
        raise typer.Exit(ExitCode.REFUSED)


@preview_app.command(cls=JobCommand, epilog="Example: attune preview rows.jsonl --model smollm2-135m-instruct --rows 5")
def preview(
    training_file: TrainingFile = None,
    *,
    model: Model = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=20, help="Number of rows to show.")] = 3,
    method: Method = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the first rows of a training file as the model will see them.

    Supervised tokens are printed in [[ ]], and |CUT| marks where a row is truncated. The exit code is 2 if a row is
    invalid.
    """
    body = job_body(body_file, {"model": model, "method.type": method}, {}, assignments)
    require_model_and_file(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        attach_files(client, body, training_file, None)
        report = client.post("/fine_tuning/previews", {**body, "rows": rows})
    if as_json:
        print_json(report)
    else:
        for row in report["rows"]:
            _print_row(row)
        print_findings(report.get("findings", []), {})
    if count_errors([finding for part in (report, *report["rows"]) for finding in part.get("findings", [])]):
        raise typer.Exit(ExitCode.REFUSED)


def _estimate_fields(report: Document) -> dict[str, str]:
    fields = {"allowed": "yes" if report["allowed"] else "no"}
    for number, reason in enumerate(report["reasons"], 1):
        fields[f"reason {number}"] = reason["message"]
    for number, warning in enumerate(report.get("warnings", []), 1):
        fields[f"warning {number}"] = warning
    if train := report["train"]:
        sampled = "" if train["sampled_rows"] == train["rows"] else f" (estimated from {train['sampled_rows']:,})"
        fields["rows"] = f"{train['rows']:,}{sampled}"
        fields["truncated, dropped"] = f"{train['truncated_rows']:,}, {train['dropped_rows']:,}"
        # Rows with labels, and prompts that the model answers in training, have no supervised tokens.
        supervised = f", of which {train['supervised_tokens']:,} are supervised" if train["supervised_tokens"] else ""
        fields["tokens per epoch"] = f"{train['tokens']:,}{supervised}"
    if report["total_steps"]:
        size, epochs = plural(report["batch_size"], "row"), plural(report["n_epochs"], "epoch")
        fields["steps"] = f"{report['total_steps']:,} of {size}, {epochs}"
    if report["trained_parameters"] is not None:
        about = "" if report["parameters_exact"] else "about "
        fields["trained parameters"] = f"{about}{report['trained_parameters']:,}"
    if memory := report["memory"]:
        shares = [f"{name} {format_size(count)}" for name, count in memory.items() if count and name != "total"]
        fields["memory"] = f"{format_size(memory['total'])}: {', '.join(shares)}"
    if report["seconds"] is not None:
        fields["time"] = format_duration(report["seconds"])
    return fields


def _print_row(row: Document) -> None:
    dropped = ", dropped from training" if row["dropped"] else ""
    label = "" if row["label"] is None else f", label {row['label']}"
    print_line(f"Row {row['row']}{label}{dropped}")
    for sequence in row["sequences"]:
        cut = "" if sequence["cut_at"] is None else f", truncated after {sequence['cut_at']}"
        # Labeled texts and prompts have no supervised tokens: their loss is that of the label or the sampled answers.
        only_read = not sequence["supervised_tokens"] and (row["label"] is not None or sequence["role"] == "prompt")
        supervised = "" if only_read else f", {sequence['supervised_tokens']} supervised"
        print_line(f"  {sequence['role']}: {sequence['length']} tokens{cut}{supervised}")
        for line in _mark_supervised(sequence).splitlines():
            print_line(f"    {line}")
    for finding in row["findings"]:
        print_line(f"  {finding['severity']} in line {finding['line']}: {finding['message']}")


def _mark_supervised(sequence: Document) -> str:
    """Return the text of the tokens, with supervised spans in [[ ]] and |CUT| where it is truncated."""
    starts = {int(start) for start, _, _ in sequence["spans"]}
    ends = {int(end) for _, end, _ in sequence["spans"]}
    pieces = []
    for position, text in enumerate([*sequence["token_texts"], ""]):
        if position in ends:
            pieces.append("]]")
        if position == sequence["cut_at"]:
            pieces.append("|CUT|")
        if position in starts:
            pieces.append("[[")
        pieces.append(text)
    return "".join(pieces)
