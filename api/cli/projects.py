"""The operator's commands for projects and their budgets."""

from typing import Annotated

import typer

from api.cli.admin import open_context, print_rows
from api.cli.console import print_result
from api.cli.errors import Commands
from api.cli.options import AsJson, Config, DataDirectory
from api.records.projects import Project
from api.services import budgets
from api.services.budgets import UNCHANGED, Budget

projects_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="List projects, and limit what they may use in a month.",
    epilog="Example: attune projects budget research --device-seconds 360000",
)

NONE = "none"


def _limit(text: str) -> int | None:
    if text == NONE:
        return None
    if not text.isdecimal():
        raise typer.BadParameter("give a whole number, or none")
    return int(text)


@projects_app.command("list", epilog="Example: attune projects list")
def list_projects(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List all projects with what they used this month and their budgets."""
    with open_context(data_dir, config) as context:
        rows = [_fields(project, monthly) for project, monthly in budgets.listed(context)]
    print_rows(rows, as_json)


@projects_app.command("budget", epilog="Example: attune projects budget research --trained-tokens 50000000")
def set_budget(
    project: Annotated[str, typer.Argument(help="The project's name, from `attune projects list`.")],
    trained_tokens: Annotated[
        str | None, typer.Option(metavar="NUMBER|none", help="Maximum tokens to train on in a month.")
    ] = None,
    device_seconds: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|none", help="Maximum seconds of CPUs and GPUs for jobs in a month."),
    ] = None,
    stored_bytes: Annotated[
        str | None, typer.Option(metavar="NUMBER|none", help="Maximum bytes of stored files and models.")
    ] = None,
    judge_tokens: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|none", help="Maximum tokens that judges read and write in a month."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Set the project's budgets; `none` removes one. A budget that is used up refuses new jobs until the next month.

    Without a budget for judges' tokens, the limit in the settings applies. Once these tokens are used up, no judge is
    asked.
    """
    given = {
        "trained_tokens": trained_tokens,
        "device_seconds": device_seconds,
        "stored_bytes": stored_bytes,
        "judge_tokens": judge_tokens,
    }
    limits = {name: UNCHANGED if text is None else _limit(text) for name, text in given.items()}
    with open_context(data_dir, config) as context:
        budgets.set_budget(context, project, **limits)
    changed = {name: limit for name, limit in limits.items() if limit != UNCHANGED}
    document = {"project": project} | changed
    print_result(document, f"The budgets of {project} are set: attune projects list", as_json=as_json)


def _fields(project: Project, budgets: list[Budget]) -> dict[str, object]:
    fields: dict[str, object] = {"name": project.name, "id": project.id}
    for budget in budgets:
        name = budget.name.replace("_", " ")
        fields |= {name: budget.used, f"of {name}": budget.limit}
    return fields
