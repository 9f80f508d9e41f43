"""The server's address and API key: from options, then the environment, then the data folder of a local `attune up`.

A key from `credentials.json` is sent only to the server that wrote it, never to another one named by an option.
OpenAI's variables (`OPENAI_BASE_URL`, `OPENAI_API_KEY`) are not read, so that no file is uploaded to OpenAI by mistake.
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
    str | None, typer.Option("--base-url", help="The server, such as http://host:8000/v1. Default: ATTUNE_BASE_URL.")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help="The API key. Default: ATTUNE_API_KEY, which `ps` does not show to other users."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The data folder of a local `attune up`, whose credentials.json is used by default."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

DEFAULT_DATA_DIR = Path("attune-data")


def connect(base_url: str | None, api_key: str | None, data_dir: Path | None) -> Client:
    url = base_url or os.environ.get("ATTUNE_BASE_URL")
    key = api_key or os.environ.get("ATTUNE_API_KEY")
    if not (url and key):
        local_url, local_key = _credentials(data_dir)
        if url is None:
            url, key = local_url, key or local_key
        elif _with_version(url) == _with_version(local_url or ""):
            key = key or local_key
    if not url:
        raise CommandError(
            ExitCode.REFUSED,
            "no server address: start a server here with `attune up`, or give --base-url, ATTUNE_BASE_URL or "
            "--data-dir.",
        )
    if not key:
        raise CommandError(ExitCode.NOT_AUTHORIZED, "no API key: set ATTUNE_API_KEY or give --api-key.")
    return Client(_with_version(url), key)


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
        raise CommandError(
            ExitCode.REFUSED, f"{path} does not hold Attune's credentials: start `attune up` again to rewrite it."
        ) from None


def _with_version(url: str) -> str:
    """Return the URL of the API: `http://host:8000` and `http://host:8000/v1/` both become `http://host:8000/v1`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if url and (parsed.scheme not in {"http", "https"} or not parsed.host):
        raise CommandError(ExitCode.REFUSED, f"{url} is not an http:// or https:// address.")
    return str(parsed.copy_with(path="/v1")) if parsed.path in {"", "/"} else url.rstrip("/")
