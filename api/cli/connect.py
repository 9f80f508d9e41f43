"""The server's address and API key, from the first of these that has them:

1. the options `--base-url` and `--api-key`
2. `ATTUNE_BASE_URL` and `ATTUNE_API_KEY`
3. `credentials.json` in the data folder of a local `attune up` (`--data-dir`, `ATTUNE_DATA_DIR`, `./attune-data`)
4. the file of `attune login`

A key from a file is sent only to the server of that file, never to another one named by an option or a variable.
OpenAI's variables (`OPENAI_BASE_URL`, `OPENAI_API_KEY`) are not read, so that no file is uploaded to OpenAI by mistake.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

from api.cli.client import Client
from api.cli.errors import CommandError, ExitCode

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="The server, such as http://host:8000/v1. Default: ATTUNE_BASE_URL, then a local `attune up`, then the "
        "server of `attune login`.",
    ),
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


@dataclass(frozen=True)
class Server:
    url: str
    url_source: str
    """The option, variable or file that named the address."""
    key: str
    key_source: str

    def client(self) -> Client:
        return Client(self.url, self.key)


def connect(base_url: str | None, api_key: str | None, data_dir: Path | None) -> Client:
    return find_server(base_url, api_key, data_dir).client()


def find_server(base_url: str | None, api_key: str | None, data_dir: Path | None) -> Server:
    """Return the server and the key that commands with these options use. Raise CommandError if one is missing."""
    url, url_source = _option_or_variable(base_url, "--base-url", "ATTUNE_BASE_URL")
    key, key_source = _option_or_variable(api_key, "--api-key", "ATTUNE_API_KEY")
    if not (url and key):
        for path, file_url, file_key in _files(data_dir):
            if not url or with_version(url) == with_version(file_url):
                url, url_source = (url, url_source) if url else (file_url, str(path))
                key, key_source = (key, key_source) if key else (file_key, str(path))
                break
    if not url:
        raise CommandError(
            ExitCode.REFUSED,
            "no server is known here",
            "start one with `attune up`, or name one with `attune login https://HOST`, --base-url or ATTUNE_BASE_URL.",
        )
    if not key:
        raise CommandError(
            ExitCode.NOT_AUTHORIZED,
            f"no API key for {url}",
            "run `attune login`, set ATTUNE_API_KEY or give --api-key.",
        )
    return Server(with_version(url), url_source, sendable_key(key, key_source), key_source)


def sendable_key(key: str, source: str) -> str:
    """Return the key without surrounding spaces. Raise CommandError if no header of a request can hold it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise CommandError(
            ExitCode.NOT_AUTHORIZED,
            f"{source} does not hold an API key: it has a space, or a character that is not ASCII.",
        )
    return key


def login_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "attune" / "credentials.json"


def _option_or_variable(option: str | None, name: str, variable: str) -> tuple[str, str]:
    return (option, name) if option else (os.environ.get(variable, ""), variable)


def _files(data_dir: Path | None) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, address, key) of each file of credentials, in order of precedence."""
    folder = data_dir or Path(os.environ.get("ATTUNE_DATA_DIR") or DEFAULT_DATA_DIR)
    paths = {
        folder / "credentials.json": "start `attune up` again to rewrite it.",
        login_file(): "run `attune login` again to rewrite it.",
    }
    for path, remedy in paths.items():
        try:
            credentials = json.loads(path.read_text())
            yield path, str(credentials["base_url"]), str(credentials["api_key"])
        except FileNotFoundError:
            if path.parent == data_dir:
                raise CommandError(
                    ExitCode.REFUSED, f"{path} does not exist", "has `attune up` run on this folder?"
                ) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise CommandError(ExitCode.REFUSED, f"{path} does not hold Attune's credentials", remedy) from None


def with_version(url: str) -> str:
    """Return the URL of the API: `http://host:8000` and `http://host:8000/v1/` both become `http://host:8000/v1`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if url and (parsed.scheme not in {"http", "https"} or not parsed.host):
        raise CommandError(ExitCode.REFUSED, f"{url} is not an http:// or https:// address.")
    return str(parsed.copy_with(path="/v1")) if parsed.path in {"", "/"} else url.rstrip("/")
