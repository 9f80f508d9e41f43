"""`attune jobs list`: the project's jobs, filtered."""

from datetime import datetime
from typing import Annotated

import typer

from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.errors import CommandError, ExitCode
from api.cli.listing import After, Columns, Limit, print_listing, time_of

COLUMNS: Columns = {
    "ID": "id",
    "STATUS": "status",
    "BASE MODEL": "model",
    "CREATED": time_of("created_at"),
    "FINE-TUNED MODEL": "fine_tuned_model",
}

Pairs = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Jobs with this metadata. Repeatable.")]
Model = Annotated[str | None, typer.Option(help="Jobs on this base model, or that continue this fine-tuned model.")]
DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
Since = Annotated[datetime | None, typer.Option(formats=DAYS, help="Jobs created from this local day or time on.")]
Until = Annotated[datetime | None, typer.Option(formats=DAYS, help="Jobs created before this local day or time.")]


def list_jobs(
    *,
    status: Annotated[str | None, typer.Option(help="Jobs with this status, such as failed.")] = None,
    method: Annotated[str | None, typer.Option(help="Jobs with this method, such as dpo.")] = None,
    model: Model = None,
    search: Annotated[str | None, typer.Option(help="Jobs with this text in their id or a model's name.")] = None,
    metadata: Pairs = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the project's jobs, newest first: those that pass all filters."""
    query: dict[str, object] = {"status": status, "method": method, "model": model, "search": search}
    query["created_after"] = since and int(since.timestamp())
    query["created_before"] = until and int(until.timestamp())
    for pair in metadata or ():
        key, found, value = pair.partition("=")
        if not found:
            raise CommandError(ExitCode.REFUSED, f"--metadata {pair} has no value", "write it as KEY=VALUE.")
        query[f"metadata[{key}]"] = value
    with connect(base_url, api_key, data_dir) as client:
        listing = client.listed("/fine_tuning/jobs", limit=limit, after=after, **query)
    print_listing(listing, COLUMNS, as_json=as_json)
