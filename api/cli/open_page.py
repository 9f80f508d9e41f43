"""`attune open`: the dashboard in a browser, signed in by a link that works once."""

import html
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit, urlunsplit

import typer

from api.cli.client import Client, Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import out, print_note, print_result
from api.cli.errors import Command

open_app = typer.Typer(add_completion=False)


@open_app.command(cls=Command, epilog="Example: attune open /jobs")
def open_page(
    page: Annotated[
        str | None, typer.Argument(help="The page to show, such as /jobs/ftjob-abc123. Default: the jobs.")
    ] = None,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print a link that signs a browser in to the dashboard, and open it on a desktop.

    The link works once, within ten minutes, and replaces an earlier one. The browser gets the rights of your API key.
    """
    with connect(base_url, api_key, data_dir) as client:
        link = create_link(client, page)
    print_result(link, link["url"], as_json=as_json)
    if out.is_terminal and not as_json and _has_display() and _open_browser(link["url"]):
        print_note("The browser opens it.")


def create_link(client: Client, page: str | None = None) -> Document:
    """Create a link that signs a browser in once, and then shows `page`. Return its `url` and `expires_at`."""
    root = client.base_url.removesuffix("/v1")
    link = client.post(f"{root}/session/links")
    # A whole address is copied from a browser, which may know another name of the host.
    if page and page.startswith(("http://", "https://")):
        page = urlunsplit(urlsplit(page)._replace(scheme="", netloc="", fragment=""))
    shown = f"&page=/{quote(page.lstrip('/'))}" if page else ""
    return {"url": f"{root}{link['path']}{shown}", "expires_at": link["expires_at"]}


def _has_display() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _open_browser(url: str) -> bool:
    """Open the link in the user's browser. Return whether one was started.

    The browser is started with a file that leads to the link, because other users can read a command line.
    """
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(home) / "attune" / "open.html"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as page:
        page.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(url)}">\n')
    try:
        return webbrowser.open(file.as_uri())
    except webbrowser.Error:
        return False
