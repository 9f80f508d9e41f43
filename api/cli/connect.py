"""Where the server is and with which key: flags, then the environment, then the data folder of a local `attune up`.

A key from `credentials.json` goes only to the server that wrote it, never to another one named by a flag. OpenAI's own
variables are not read: a file meant for your server must not end up at OpenAI because of a variable set for it.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import httpx
import typer

from api.cli.client import Client
from api.cli.errors import CommandError, ExitCode

BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="The server, such as http://host:8000/v1. Else ATTUNE_BASE_URL.")
]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="Else ATTUNE_API_KEY (which `ps` does not show).")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Of a local `attune up`; its credentials.json is used when nothing else is given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]

DEFAULT_DATA_DIR = Path("attune-data")


def connect(base_url: str | None, api_key: str | None, data_dir: Path | None) -> Client:
    url = base_url or os.environ.get("ATTUNE_BASE_URL")
    key = api_key or os.environ.get("ATTUNE_API_KEY")
    if not (url and key):
        local_url, local_key = _credentials(data_dir)
        if url is None:
            url, key = local_url, key or local_key
        elif _versioned(url) == _versioned(local_url or ""):
            key = key or local_key
    if not url:
        raise CommandError(
            ExitCode.REFUSED,
            "which server? Start one here with `attune up`, or give --base-url, ATTUNE_BASE_URL or --data-dir.",
        )
    if not key:
        raise CommandError(ExitCode.NOT_AUTHORIZED, "no API key: set ATTUNE_API_KEY or give --api-key.")
    return Client(_versioned(url), key)


def _credentials(data_dir: Path | None) -> tuple[str | None, str | None]:
    folder = data_dir or Path(os.environ.get("ATTUNE_DATA_DIR") or DEFAULT_DATA_DIR)
    path = folder / "credentials.json"
    try:
        credentials = json.loads(path.read_text())
        return str(credentials["base_url"]), str(credentials["api_key"])
    except FileNotFoundError:
        if data_dir is not None:
            raise CommandError(
                ExitCode.REFUSED, f"{path} does not exist: has `attune up` run on this folder?"
            ) from None
        return None, None
    except (OSError, ValueError, KeyError, TypeError):
        raise CommandError(ExitCode.REFUSED, f"{path} cannot be read as Attune's credentials.") from None


def _versioned(url: str) -> str:
    """`http://host:8000` and `http://host:8000/v1/` both mean the API below /v1."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if url and (parsed.scheme not in {"http", "https"} or not parsed.host):
        raise CommandError(ExitCode.REFUSED, f"{url} is no http:// or https:// address.")
    return str(parsed.copy_with(path="/v1")) if parsed.path in {"", "/"} else url.rstrip("/")
