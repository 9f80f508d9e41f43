"""`attune import`: inventory, fetch, record, push, compare."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect, find_server
from api.cli.console import format_size, plural, print_json, print_note, print_result
from api.cli.errors import Commands, ExitCode
from api.cli.imports.asking import Options
from api.cli.imports.bases import BASES, JUDGES
from api.cli.imports.compare import compare, read_graders
from api.cli.imports.comparison_table import print_comparison
from api.cli.imports.consent import require_consent
from api.cli.imports.fetch import fetch
from api.cli.imports.folder import Folder, held, require_source, source_of
from api.cli.imports.inventory import days_left, take_inventory
from api.cli.imports.push import make_plan, push
from api.cli.imports.record import most, record, recordings
from api.cli.imports.source import Source, open_source
from api.cli.job_options import Assignments
from api.cli.listing import Columns, print_documents
from api.infra.private_file import write_private_file

import_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Move jobs, files, evals and answers here from OpenAI, or from another server with its API.",
    epilog="Example: attune import fetch --output openai-export",
)

From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="URL", help="The source. Default: OpenAI's API. The source's key is read from OPENAI_API_KEY."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for what is fetched.")]
Input = Annotated[Path, typer.Option("--input", "-i", help="The folder of `attune import fetch`.")]
JobIds = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="Only this job of the source. Repeatable. Default: those that succeeded."),
]
Concurrency = Annotated[int, typer.Option(min=1, max=64, help="Questions that are asked at the same time.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Agree to the plan without being asked.")]


@import_app.command(epilog="Example: attune import inventory")
def inventory(*, source_url: From = None, as_json: Json = False) -> None:
    """List what the source has, what can still be fetched, and until when."""
    with open_source(source_url) as source:
        found = take_inventory(source)
    if as_json:
        return print_json(found)
    print_documents(found["data"], ITEMS)
    for kind in dict.fromkeys(item["kind"] for item in found["data"]):
        states = [item["available"] for item in found["data"] if item["kind"] == kind]
        print_note(f"{kind}: {sum(states)} of {len(states)} available")
    if found["evals_problem"]:
        print_note(f"evals: {found['evals_problem']}")
    for deadline in found["deadlines"]:
        print_note(f"{deadline['date']}: {deadline['what']}")
    return None


@import_app.command("fetch", epilog="Example: attune import fetch --output openai-export")
def fetch_all(*, output: Output, source_url: From = None, as_json: Json = False) -> None:
    """Copy jobs, files, checkpoints, events and evals of the source into a folder.

    An interrupted command continues when it is repeated. Nothing is changed or deleted at the source.
    """
    with open_source(source_url) as source, held(output):
        report = fetch(source, Folder(output, source.base_url))
    if not as_json:
        for refused in report["unavailable"]:
            print_note(f"{refused['path']}: {refused['message']} (status {refused['status']})")
    print_result(
        report,
        f"{report['folder']} holds {plural(report['jobs'], 'job')}, {plural(report['files'], 'file')} and "
        f"{plural(report['evals'], 'eval')}, "
        f"{format_size(report['bytes'])}. Not available: {len(report['unavailable'])}.",
        as_json=as_json,
    )


@import_app.command("record", epilog="Example: attune import record --input openai-export --max-requests 200")
def record_answers(
    *,
    folder: Input,
    job: JobIds = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file of rows whose prompts are asked. Default: a job's validation file."),
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 picks the most likely token.")] = 0.0,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Ceiling of all requests.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Ceiling of all tokens, prompts and answers together.")
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.1, help="Ask at most this often.")] = None,
    concurrency: Concurrency = 4,
    yes: Yes = False,
    source_url: From = None,
    as_json: Json = False,
) -> None:
    """Ask the old models the prompts of the validation files, and keep their answers with log-probabilities.

    The maximum numbers of requests and tokens are shown first. No prompt with a stored answer is asked again.
    """
    options = Options(max_answer_tokens, temperature)
    with held(folder), open_source(source_url) as source:
        require_source(folder, source.base_url)
        found = recordings(folder, job, prompts)
        limits = most(found, options).lowered(max_requests, max_tokens)
        limits.interval_s = 60 / requests_per_minute if requests_per_minute else 0.0
        if limits.requests:
            for each in found:
                number = len(each.answers.open_prompts(each.prompts))
                print_note(f"{each.answers.model}: {plural(number, 'prompt')} to ask")
            requests, tokens = plural(limits.requests, "request"), plural(limits.tokens, "token")
            print_note(f"At most {requests} and {tokens} to {source.base_url}.")
            require_consent("Ask them?", yes=yes)
        report = record(source, found, options, limits, concurrency=concurrency)
    if as_json:
        return print_json(report)
    return print_documents(report["models"], RECORDED)


@import_app.command("push", epilog="Example: attune import push --input openai-export")
def push_jobs(
    *,
    folder: Input,
    job: JobIds = None,
    assignments: Assignments = None,
    yes: Yes = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make the jobs and evals of the folder on this server, with their files, methods and hyperparameters.

    The models are those of bases.json and judges.json in the folder, which are written with suggestions. The plan is
    shown first. Jobs and evals of an earlier push are not made again. The exit code is 2 if the server refuses a part
    of the plan.
    """
    source_of(folder)
    with held(folder), connect(base_url, api_key, data_dir) as client:
        plan = make_plan(client, folder, job, assignments)
        for line in plan.lines():
            print_note(line)
        if plan.open_jobs or plan.open_evals:
            print_note(f"Models: {BASES} and {JUDGES} in {folder}. Change them there before you agree.")
            made = f"{plural(len(plan.open_jobs), 'job')} and {plural(len(plan.open_evals), 'eval')}"
            require_consent(f"Make {made} on {client.base_url}?", yes=yes)
        report = push(client, plan)
    pushed = [*report["jobs"], *report["evals"]]
    if as_json:
        print_json(report)
    else:
        print_documents(pushed, PUSHED)
    agreed = {each.old_id for each in plan.open_jobs} | {each.old_id for each in plan.open_evals}
    if any(each["problem"] for each in pushed if each["old"] in agreed):
        raise typer.Exit(ExitCode.REFUSED)


@import_app.command("compare", epilog="Example: attune import compare --input openai-export --page answers.html")
def compare_answers(
    *,
    folder: Input,
    job: JobIds = None,
    grader: Annotated[
        list[Path] | None, typer.Option(metavar="FILE.json", help="A grader that grades all answers. Repeatable.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Also write the comparison as a page.")] = None,
    concurrency: Concurrency = 4,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the recorded answers of the old models beside the new models' answers to the same prompts.

    Graders read the row as `item`, with the row's own answer as `item.reference_answer`.
    """
    source_of(folder)
    target, graders = find_server(base_url, api_key, data_dir), read_graders(grader or [])
    server = Source(target.url, target.key, key_source=target.key_source)
    with held(folder), target.client() as client, server:
        jobs = compare(client, server, folder, job, graders, concurrency=concurrency)
    if page is not None:
        # Imported only for this option: no client command needs Jinja.
        from api.cli.imports.page import comparison_page  # noqa: PLC0415

        write_private_file(page, comparison_page(jobs).encode())
        print_note(f"Wrote {page}")
    if as_json:
        return print_json({"object": "import.compare", "target": target.url, "jobs": jobs})
    return print_comparison(jobs, list(graders))


def _until(item: Document) -> str | None:
    left = days_left(item["until"], datetime.now(UTC).date())
    if left is None:
        return None
    return f"{item['until'][:10]} ({f'{left} days' if left >= 0 else 'over'})"


ITEMS: Columns = {
    "KIND": "kind",
    "ID": "id",
    "STATUS": "status",
    "AVAILABLE": lambda item: "yes" if item["available"] else "no",
    "UNTIL": _until,
    "NAME": "name",
}
RECORDED: Columns = {
    "JOB": "job",
    "ANSWERS": "answers",
    "PROMPTS": "prompts",
    "OPEN": "open",
    "MODEL": lambda each: f"{each['model']}{' (deleted at the source)' if each['deleted'] else ''}",
}
PUSHED: Columns = {
    "AT THE SOURCE": "old",
    "HERE": "new",
    "MODEL": lambda each: each.get("model"),
    "PROBLEM": "problem",
}
