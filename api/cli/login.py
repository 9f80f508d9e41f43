"""`attune login`, `logout` and `whoami`: which server and which key the client commands use."""

import json
import os
import sys
from getpass import getpass
from typing import Annotated

import typer

from api.cli.client import Client
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, find_server, login_file, sendable_key, with_version
from api.cli.console import format_time, print_fields, print_json, print_note, print_result
from api.cli.errors import Command, CommandError, ExitCode
from api.infra.private_file import write_private_file

login_app = typer.Typer(add_completion=False)
logout_app = typer.Typer(add_completion=False)
whoami_app = typer.Typer(add_completion=False)


@login_app.command(cls=Command, epilog="Example: attune login https://attune.example.com < key.txt")
def login(
    address: Annotated[str, typer.Argument(help="The server, such as https://attune.example.com.")],
    *,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Store a server's address and your API key for later commands.

    The key is asked for on a terminal, and otherwise read from standard input, unless --api-key or ATTUNE_API_KEY gives
    it. It is stored only if the server accepts it, in a file that only you can read.
    """
    url = with_version(address)
    key = sendable_key(api_key or os.environ.get("ATTUNE_API_KEY") or _read_key(), "the input")
    with Client(url, key) as client:
        owner = client.session()
    path = login_file()
    write_private_file(path, json.dumps({"base_url": url, "api_key": key}).encode())
    document = {"file": str(path), "base_url": url, "project": owner["project"], "scope": owner["scope"]}
    text = f"Stored in {path}: {url}, project {owner['project']}, scope {owner['scope']}."
    print_result(document, text, as_json=as_json)
    used = find_server(None, None, None)
    if used.url != url:
        print_note(f"Commands in this folder use {used.url}, from {used.url_source}, which has precedence.")


@logout_app.command(cls=Command, epilog="Example: attune logout")
def logout(*, as_json: Json = False) -> None:
    """Delete the stored address and API key.

    The key stays valid: an operator revokes it with `attune keys revoke`.
    """
    path = login_file()
    if not path.exists():
        raise CommandError(ExitCode.REFUSED, f"{path} does not exist: there is no stored login.")
    path.unlink()
    print_result({"deleted": str(path)}, f"Deleted {path}.", as_json=as_json)


@whoami_app.command(cls=Command, epilog="Example: attune whoami")
def whoami(
    *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show the server, the project and the key that commands use."""
    server = find_server(base_url, api_key, data_dir)
    with server.client() as client:
        project = client.session()["project"]
        key = next(key for key in client.pages("/keys") if key["current"])
    if as_json:
        return print_json({"base_url": server.url, "project": project, "key": key})
    return print_fields(
        {
            "server": f"{server.url} (from {server.url_source})",
            "project": project,
            "key": f"{key['id']}, {key['name']}, {key['redacted_value']} (from {server.key_source})",
            "scope": key["scope"],
            "expires": format_time(key["expires_at"]) if key["expires_at"] else "never",
        }
    )


def _read_key() -> str:
    key = getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise CommandError(
            ExitCode.NOT_AUTHORIZED, "no API key: send it on standard input, or give --api-key or ATTUNE_API_KEY."
        )
    return key
