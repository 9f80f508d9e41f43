"""`attune usage`: what the project, or every project, used by day, key or model, and the project's budgets."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_duration, format_time, print_json, print_line, print_note
from api.cli.errors import Command
from api.cli.listing import Columns, print_documents, size_of

usage_app = typer.Typer(add_completion=False)

AMOUNTS: Columns = {
    "TRAINED TOKENS": lambda line: f"{line['trained_tokens']:,}",
    "CPU": lambda line: format_duration(line["cpu_seconds"]),
    "GPU": lambda line: format_duration(line["gpu_seconds"]),
    "PROMPT TOKENS": lambda line: f"{line['prompt_tokens']:,}",
    "COMPLETION TOKENS": lambda line: f"{line['completion_tokens']:,}",
    "STORED": size_of("stored_bytes"),
}


class Dimension(StrEnum):
    DAY = "day"
    PROJECT = "project"
    KEY = "key"
    MODEL = "model"


@usage_app.command(cls=Command, epilog="Example: attune usage --by model --since 2026-11-01")
def usage(
    *,
    by: Annotated[
        list[Dimension] | None,
        typer.Option(help="Sum up by day, key, model or project. Repeatable. Default: day."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="First day (UTC). Default: the first of the month."
        ),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what the project used, and its budgets. `--by project` shows all projects, with an operator's key.

    Tokens and seconds of jobs count on the day on which an attempt ends.
    """
    start_time = None if since is None else int(since.replace(tzinfo=UTC).timestamp())
    dimensions = [str(dimension) for dimension in by or [Dimension.DAY]]
    with connect(base_url, api_key, data_dir) as client:
        listing = client.get("/usage", start_time=start_time, group_by=dimensions)
    if as_json:
        return print_json(listing)
    if not listing["data"]:
        print_note("Nothing was used in this time.")
    else:
        columns: Columns = {dimension.upper(): partial(_cell, dimension) for dimension in dimensions}
        print_documents(listing["data"], {**columns, **AMOUNTS})
    for budget in listing["budgets"]:
        if budget["limit"] is not None:
            resets = f", until {format_time(budget['resets_at'])}" if budget["resets_at"] else ""
            print_line(f"Budget of {budget['name']}: {budget['used']:,} of {budget['limit']:,} used{resets}")
    return None


def _cell(dimension: str, line: Document) -> str:
    if dimension == "day":
        return datetime.fromtimestamp(line["start_time"], UTC).strftime("%Y-%m-%d")
    return str(line[{"key": "key_name", "project": "project_name"}.get(dimension, dimension)] or "")
