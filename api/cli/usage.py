"""`attune usage`: what the project used, by day, key or model, and its budgets."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_duration, format_size, format_time, print_json, print_line, print_note, print_table
from api.cli.errors import Command

usage_app = typer.Typer(add_completion=False)


class Dimension(StrEnum):
    DAY = "day"
    KEY = "key"
    MODEL = "model"


@usage_app.command(cls=Command, epilog="Example: attune usage --by model --since 2026-11-01")
def usage(
    *,
    by: Annotated[
        list[Dimension] | None, typer.Option(help="Sum up by day, key or model. Repeatable. Default: day.")
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
    """Show what the project used, and its budgets.

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
        print_table(
            [*(dimension.upper() for dimension in dimensions), "TRAINED TOKENS", "CPU", "GPU", "PROMPT TOKENS",
             "COMPLETION TOKENS", "STORED"],
            [[*(_cell(line, dimension) for dimension in dimensions), *_amounts(line)] for line in listing["data"]],
        )  # fmt: skip
    for budget in listing["budgets"]:
        if budget["limit"] is not None:
            resets = f", until {format_time(budget['resets_at'])}" if budget["resets_at"] else ""
            print_line(f"Budget of {budget['name']}: {budget['used']:,} of {budget['limit']:,} used{resets}")
    return None


def _cell(line: Document, dimension: str) -> str:
    if dimension == "day":
        return datetime.fromtimestamp(line["start_time"], UTC).strftime("%Y-%m-%d")
    return str(line[{"key": "key_name"}.get(dimension, dimension)] or "-")


def _amounts(line: Document) -> list[str]:
    return [
        f"{line['trained_tokens']:,}",
        format_duration(line["cpu_seconds"]),
        format_duration(line["gpu_seconds"]),
        f"{line['prompt_tokens']:,}",
        f"{line['completion_tokens']:,}",
        format_size(line["stored_bytes"]),
    ]
