"""`attune evals`: create, list, run, watch, show, compare, cancel, delete."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from api.cli.body import apply_assignment, read_body
from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_json, print_result
from api.cli.errors import CommandError, Commands, ExitCode
from api.cli.eval_results import EXIT_CODES, compared, describe_run, print_comparison, print_eval, print_run
from api.cli.files import file_for
from api.cli.job_options import BodyFile
from api.cli.listing import add_list_command, time_of
from api.cli.waiting import watch_counts

evals_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Grade the answers of models by criteria of your own.",
    epilog="Example: attune evals run eval_abc123 questions.jsonl --model smollm2-135m-instruct --watch",
)

EvalId = Annotated[str, typer.Argument(metavar="EVAL_ID", help="An id from `attune evals list`.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="An id from `attune evals show EVAL_ID`.")]

SHOWN_ITEMS = 10
"""Number of items that do not pass, or of runs, that are shown by default."""


@evals_app.command(epilog="Example: attune evals create capitals.json")
def create(
    body_file: Annotated[
        Path,
        typer.Argument(metavar="FILE.json", help="A JSON file with the request body, or - for stdin."),
    ],
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create an eval: the schema of its items, and the criteria that grade them."""
    body = read_body(body_file)
    with connect(base_url, api_key, data_dir) as client:
        created = client.post("/evals", body)
    text = f"Created {created['id']}. Run it with: attune evals run {created['id']} FILE --model MODEL"
    print_result(created, text, as_json=as_json)


add_list_command(
    evals_app,
    "/evals",
    {
        "ID": "id",
        "NAME": "name",
        "CREATED": time_of("created_at"),
        "CRITERIA": lambda found: ", ".join(criterion["name"] for criterion in found["testing_criteria"]),
    },
    summary="List the project's evals.",
    example="attune evals list --limit 5",
    order="desc",
)


@evals_app.command(epilog="Example: attune evals run eval_abc123 questions.jsonl --model smollm2-135m-instruct --watch")
def run(
    eval_id: EvalId,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE_OR_ID",
            help='JSON lines of {"item": {…}}: a local file, which is uploaded, or the id of a file.',
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help='The model to ask. Default: none, for lines with an answer in "sample".'),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The message to the model, with variables such as {{ item.question }}. "
            "Default: the messages in item.messages."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A note on the run.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other field, such as data_source.sampling_params.temperature=0. Repeatable.",
        ),
    ] = None,
    body_file: BodyFile = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run until it ends.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a run: ask a model the questions of a file and grade its answers, or grade answers in the file."""
    body = _run_body(read_body(body_file), name, model, prompt, assignments)
    source = body["data_source"]
    if file is None and "source" not in source:
        raise CommandError(ExitCode.REFUSED, "the run has no rows: give a file of them, or the id of a file.")
    with connect(base_url, api_key, data_dir) as client:
        path = f"/evals/{segment(eval_id)}/runs"
        if file is None:
            created = client.post(path, body)
        else:
            with file_for(client, file, "evals") as rows:
                source["source"] = {"type": "file_id", "id": rows}
                created = client.post(path, body)
        if not (watch and as_json):
            text = f"Created {created['id']}. Its report: {created['report_url']}"
            print_result(created, text, as_json=as_json)
        if watch:
            raise typer.Exit(_watch(client, eval_id, created["id"], as_json=as_json))


def _run_body(
    body: Document, name: str | None, model: str | None, prompt: str | None, assignments: list[str] | None
) -> Document:
    """Return the request that creates a run, without the rows of a file."""
    for assignment in assignments or []:
        apply_assignment(body, assignment)
    source = body.setdefault("data_source", {})
    if not isinstance(source, dict):
        raise CommandError(ExitCode.REFUSED, "data_source must be an object.")
    if name is not None:
        body["name"] = name
    if model is not None:
        source["model"] = model
    if prompt is not None:
        if "model" not in source:
            raise CommandError(ExitCode.REFUSED, "--prompt asks a model: name it with --model.")
        source["input_messages"] = {"type": "template", "template": [{"role": "user", "content": prompt}]}
    elif "model" in source:
        source.setdefault("input_messages", {"type": "item_reference", "item_reference": "item.messages"})
    source.setdefault("type", "completions" if "model" in source else "jsonl")
    return body


@evals_app.command("watch", epilog="Example: attune evals watch eval_abc123 evalrun_abc123")
def watch_run(
    eval_id: EvalId,
    run_id: RunId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow a run until it ends.

    The exit code is 0 if it completed, 1 if it failed and 3 if it was canceled.
    """
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(_watch(client, eval_id, run_id, as_json=as_json))


def _watch(client: Client, eval_id: str, run_id: str, *, as_json: bool) -> ExitCode:
    path = _run_path(eval_id, run_id)
    ended = watch_counts(
        lambda: client.get(path), EXIT_CODES, describe_run, subject=run_id, stage="evaluate", quiet=as_json
    )
    if ended is None:
        return ExitCode.INTERRUPTED
    if as_json:
        print_json(ended)
    else:
        print_run(ended, _not_passing(client, path, SHOWN_ITEMS))
    return EXIT_CODES[ended["status"]]


def _not_passing(client: Client, run_path: str, limit: int) -> list[Document]:
    """Return items of a run that do not pass: first those with an error, then those that fail."""
    items = f"{run_path}/output_items"
    found = (client.listed(items, limit=limit, status=status)["data"] for status in ("error", "fail"))
    return list(chain.from_iterable(found))[:limit]


@evals_app.command(epilog="Example: attune evals show eval_abc123 evalrun_abc123 --limit 20")
def show(
    eval_id: EvalId,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN_ID", help="A run of the eval.")] = None,
    *,
    limit: Annotated[
        int, typer.Option(min=0, help="Maximum number of runs to show or, with RUN_ID, of items that do not pass.")
    ] = SHOWN_ITEMS,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show an eval with its newest runs, or a run with its counts and the items that do not pass."""
    path = f"/evals/{segment(eval_id)}"
    with connect(base_url, api_key, data_dir) as client:
        if run_id is None:
            found, listed = client.get(path), client.listed(f"{path}/runs", limit=limit, order="desc")["data"]
        else:
            path = _run_path(eval_id, run_id)
            found, listed = client.get(path), _not_passing(client, path, limit)
    if as_json:
        return print_json({"eval": found, "runs": listed} if run_id is None else {"run": found, "items": listed})
    return print_eval(found, listed) if run_id is None else print_run(found, listed)


@evals_app.command(epilog="Example: attune evals compare eval_abc123 evalrun_abc123 evalrun_def456")
def compare(
    eval_id: EvalId,
    first: RunId,
    second: RunId,
    *,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of items to show.")] = 20,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare two runs of an eval: their counts by criterion, and the items of which one passes and one does not."""
    with connect(base_url, api_key, data_dir) as client:
        comparison = compared(client, *(_run_path(eval_id, run_id) for run_id in (first, second)))
    if as_json:
        return print_json(comparison)
    return print_comparison(comparison, limit)


@evals_app.command(epilog="Example: attune evals cancel eval_abc123 evalrun_abc123")
def cancel(
    eval_id: EvalId,
    run_id: RunId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Cancel a run. Its results until now are kept."""
    with connect(base_url, api_key, data_dir) as client:
        ended = client.post(f"{_run_path(eval_id, run_id)}/cancel")
    print_result(ended, f"{ended['id']} is {ended['status']}", as_json=as_json)


@evals_app.command(epilog="Example: attune evals delete eval_abc123 evalrun_abc123")
def delete(
    eval_id: EvalId,
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN_ID", help="Delete only this run. Default: the eval with all its runs."),
    ] = None,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a run with its results, or an eval with all its runs."""
    path = f"/evals/{segment(eval_id)}" if run_id is None else _run_path(eval_id, run_id)
    with connect(base_url, api_key, data_dir) as client:
        deleted = client.delete(path)
    print_result(deleted, f"Deleted {run_id or eval_id}", as_json=as_json)


def _run_path(eval_id: str, run_id: str) -> str:
    return f"/evals/{segment(eval_id)}/runs/{segment(run_id)}"
