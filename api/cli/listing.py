"""Lists of objects on the server: the `list` command of each kind, and the tables that show them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_size, format_time, print_json, print_note, print_table

Columns = Mapping[str, str | Callable[[Document], object]]
"""Title of each column → the field that it shows, or a function that returns the text of its cell."""

Limit = Annotated[int, typer.Option(min=1, help="Number of entries, newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Start after this entry.")]


def time_of(field: str) -> Callable[[Document], str]:
    """Return a column that shows a Unix time."""
    return lambda document: format_time(document[field])


def size_of(field: str) -> Callable[[Document], str]:
    """Return a column that shows a number of bytes."""
    return lambda document: format_size(document[field])


def add_list_command(
    app: typer.Typer, path: str, columns: Columns, *, summary: str, example: str, **query: object
) -> None:
    """Add the command `list` to `app`. `query`: parameters of each request beside those of paging."""

    @app.command(name="list", help=summary, epilog=f"Example: {example}")
    def list_objects(
        *,
        limit: Limit = 20,
        after: After = None,
        base_url: BaseUrl = None,
        api_key: ApiKey = None,
        data_dir: DataDir = None,
        as_json: Json = False,
    ) -> None:
        with connect(base_url, api_key, data_dir) as client:
            listing = client.listed(path, limit=limit, after=after, **query)
        print_listing(listing, columns, as_json=as_json)


def print_listing(listing: Document, columns: Columns, *, as_json: bool) -> None:
    """Print a list of the server as JSON or as a table, and report on stderr whether the server has more."""
    if as_json:
        return print_json(listing)
    if not listing["data"]:
        return print_note("There is nothing to list.")
    print_documents(listing["data"], columns)
    if listing["has_more"]:
        last = listing["data"][-1]["id"]
        print_note(
            f"{len(listing['data'])} shown, and there are more. For the next: --after {last}. For more at once: --limit"
        )
    return None


def print_documents(documents: Iterable[Document], columns: Columns) -> None:
    """Print a table with a row for each document. A cell without a value shows "-"."""
    print_table(list(columns), [[_cell(document, shown) for shown in columns.values()] for document in documents])


def _cell(document: Document, shown: str | Callable[[Document], object]) -> object:
    value = document[shown] if isinstance(shown, str) else shown(document)
    return "-" if value is None or value == "" else value
