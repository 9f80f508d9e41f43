"""`attune signing`: the operator's commands for the key that signs published models."""

from typing import Annotated

import typer

from api.cli.admin import open_context
from api.cli.console import format_time, print_json, print_table
from api.cli.errors import Commands
from api.cli.options import Config, DataDirectory
from api.infra.signatures import PublicKeys
from api.services import signing

signing_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="List and replace the key that signs published models.",
    epilog="Example: attune signing list --json > attune-keys.json",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as /.well-known/attune-keys.json returns it.")]


@signing_app.command("list", epilog="Example: attune signing list --json > attune-keys.json")
def list_keys(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List the public keys: the one that signs now, and those that signed before."""
    with open_context(data_dir, config) as context:
        keys = signing.public_keys(context)
    _print(keys, as_json)


@signing_app.command(epilog="Example: attune signing rotate")
def rotate(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Replace the key. The old private key is deleted. The old public key stays listed, so its models still verify."""
    with open_context(data_dir, config) as context:
        signing.rotate(context)
        keys = signing.public_keys(context)
    _print(keys, as_json)


def _print(keys: PublicKeys, as_json: bool) -> None:
    if as_json:
        print_json(keys.model_dump(mode="json"))
        return
    rows = [[key.kid, key.x, format_time(key.created_at), format_time(key.retired_at)] for key in keys.keys]
    print_table(["key", "public key", "created", "retired"], rows)
