"""`attune estimate` and `attune preview`: what a job would take, and what the model would see, before it exists."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.body import job_body, require_named, value_of
from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_fields, print_json, print_line, size
from api.cli.errors import ClientCommand, ExitCode
from api.cli.files import put_files

estimate_app = typer.Typer()
preview_app = typer.Typer()

TrainingFile = Annotated[
    str | None, typer.Argument(metavar="FILE_OR_ID", help="A file here, which is uploaded, or an uploaded one's id.")
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="A base model.")]
Validation = Annotated[str | None, typer.Option(metavar="FILE_OR_ID")]
Technique = Annotated[
    str | None, typer.Option(help="Which weights are trained; `attune catalog` lists them. Default: lora.")
]
MethodName = Annotated[
    str | None, typer.Option(help="What is optimized; `attune catalog` lists them. Default: supervised.")
]
AutoNumber = Annotated[str | None, typer.Option(metavar="NUMBER|auto", parser=str)]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other field: training.max_length=512.")
]
BodyFile = Annotated[
    Path | None, typer.Option("--body", help="A JSON file with the job's body (- is stdin); options override it.")
]


@estimate_app.command(cls=ClientCommand)
def estimate(
    training_file: TrainingFile = None,
    *,
    model: Model = None,
    validation: Validation = None,
    technique: Technique = None,
    method: MethodName = None,
    rank: Annotated[int | None, typer.Option(help="Of the technique.")] = None,
    epochs: AutoNumber = None,
    batch_size: AutoNumber = None,
    max_steps: Annotated[int | None, typer.Option()] = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Tell what a job would take, and whether it would be allowed. Exit code 2 if not."""
    values = {"model": model, "technique.type": technique, "technique.rank": rank, "method.type": method}
    values |= {"training.max_steps": max_steps}
    numbers = {"n_epochs": value_of(epochs), "batch_size": value_of(batch_size)}
    body = job_body(body_file, values, numbers, assignments)
    require_named(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        put_files(client, body, training_file, validation)
        found = client.post("/fine_tuning/estimates", body)
    if as_json:
        print_json(found)
    else:
        print_fields(_estimate_fields(found))
    if not found["allowed"]:
        raise typer.Exit(ExitCode.REFUSED)


@preview_app.command(cls=ClientCommand)
def preview(
    training_file: TrainingFile = None,
    *,
    model: Model = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=20, help="The file's first so many.")] = 3,
    method: MethodName = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the first rows as the model will see them; what is learnt stands in [[ ]]."""
    body = job_body(body_file, {"model": model, "method.type": method}, {}, assignments)
    require_named(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        put_files(client, body, training_file, None)
        found = client.post("/fine_tuning/previews", {**body, "rows": rows})
    if as_json:
        return print_json(found)
    for row in found["rows"]:
        _say_row(row)
    return None


def _estimate_fields(found: Document) -> dict[str, Any]:
    fields: dict[str, Any] = {"allowed": "yes" if found["allowed"] else "no"}
    for number, reason in enumerate(found["reasons"], 1):
        fields[f"reason {number}"] = reason["message"]
    for number, warning in enumerate(found.get("warnings", []), 1):
        fields[f"warning {number}"] = warning
    if train := found["train"]:
        sampled = "" if train["sampled_rows"] == train["rows"] else f" (from {train['sampled_rows']:,} of them)"
        fields["rows"] = f"{train['rows']:,}{sampled}"
        fields["cut, left out"] = f"{train['truncated_rows']:,}, {train['dropped_rows']:,}"
        fields["tokens an epoch"] = f"{train['tokens']:,}, {train['supervised_tokens']:,} of them learnt"
    if found["total_steps"]:
        fields["steps"] = f"{found['total_steps']:,} of {found['batch_size']} rows, {found['n_epochs']} epochs"
    if found["trained_parameters"] is not None:
        about = "" if found["parameters_exact"] else "about "
        fields["trained weights"] = f"{about}{found['trained_parameters']:,}"
    if memory := found["memory"]:
        parts = ", ".join(f"{name} {size(count)}" for name, count in memory.items() if count and name != "total")
        fields["memory"] = f"{size(memory['total'])}: {parts}"
    if found["seconds"] is not None:
        fields["time"] = _duration(found["seconds"])
    return fields


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _say_row(row: Document) -> None:
    dropped = ", left out of the training" if row["dropped"] else ""
    label = "" if row["label"] is None else f", label {row['label']}"
    print_line(f"Row {row['row']}{label}{dropped}")
    for sequence in row["sequences"]:
        cut = "" if sequence["cut_at"] is None else f", cut after {sequence['cut_at']}"
        print_line(f"  {sequence['role']}: {sequence['length']} tokens{cut}, {sequence['supervised_tokens']} learnt")
        for line in _marked(sequence).splitlines():
            print_line(f"    {line}")
    for finding in row["findings"]:
        print_line(f"  {finding['severity']}: {finding['message']}")


def _marked(sequence: Document) -> str:
    """The text, token by token, with what is learnt in [[ ]] and the cut as a bar."""
    begins = {int(begin) for begin, _, _ in sequence["spans"]}
    ends = {int(end) for _, end, _ in sequence["spans"]}
    pieces = []
    for place, text in enumerate([*sequence["token_texts"], ""]):
        pieces += ["]]"] * (place in ends) + ["|CUT|"] * (place == sequence["cut_at"]) + ["[["] * (place in begins)
        pieces.append(text)
    return "".join(pieces)
