"""The operator's commands on keys and base models: they work on the database and the storage, not over HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from api.cli.console import moment, note, print_json, say_table
from api.cli.options import Config, DataDirectory, make_data_dir, operator_settings
from api.context import Context
from api.errors import ServiceError
from api.records.base_models import BaseModelRow
from api.records.keys import Key
from api.records.migrate import WrongSchema, is_new, migrate, require_current
from api.services import base_models, keys, orphans

keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
models_app = typer.Typer(no_args_is_help=True, help="Base models: add, list, verify, remove.")

storage_app = typer.Typer(no_args_is_help=True, help="Objects in the storage: remove those that nothing names.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@contextmanager
def _opened(data_dir: Any, config: Any) -> Iterator[Context]:
    """The context, on a schema that is made if the database is new, and never changed if it is not. A refusal becomes
    one line and exit code 2."""
    settings = operator_settings(data_dir, config)
    make_data_dir(settings)
    context = Context.open(settings)
    try:
        if is_new(context.database):
            migrate(context.database)
        require_current(context.database)
        yield context
    except ServiceError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    except WrongSchema as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    finally:
        context.database.dispose()


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    project: Annotated[str, typer.Option(help="Made if there is none of this name.")] = "default",
    scope: Annotated[str, typer.Option(help="admin, write or read.")] = "write",
    expires_days: Annotated[float | None, typer.Option(min=0.001)] = None,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Create a key. Its plain text is shown once."""
    if scope not in ("admin", "write", "read"):
        raise typer.BadParameter("admin, write or read", param_hint="--scope")
    with _opened(data_dir, config) as context:
        expires_in_s = None if expires_days is None else expires_days * 86400
        key, plain = keys.create(context, project=project, name=name, scope=scope, expires_in_s=expires_in_s)
    if as_json:
        typer.echo(json.dumps(_key_row(key, project) | {"api_key": plain}))
    else:
        typer.echo(f"{key.id} for project {project} ({scope}); shown this once:", err=True)
        typer.echo(plain)


@keys_app.command("list")
def list_keys(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List all keys, without their secrets."""
    with _opened(data_dir, config) as context:
        rows = [_key_row(key, project) for key, project in keys.listed(context)]
    _show(rows, as_json)


@keys_app.command("revoke")
def revoke_key(key_id: str, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Revoke a key: it stops working at once."""
    with _opened(data_dir, config) as context:
        keys.revoke(context, key_id)
    typer.echo(f"{key_id} is revoked", err=True)


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="How jobs will name it.")],
    source: Annotated[str, typer.Argument(help="A hub id, a folder, or a GGUF file.")],
    revision: Annotated[str | None, typer.Option(help="Of a hub id: a branch, tag or commit.")] = None,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Add a base model. safetensors and GGUF only: pickled weights and models that bring code are refused."""
    with _opened(data_dir, config) as context:
        typer.echo(f"converting {source} …", err=True)
        base = base_models.add(context, name, source, revision=revision)
    _show([_model_row(base)], as_json)


@models_app.command("list")
def list_base_models(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List the base models."""
    with _opened(data_dir, config) as context:
        rows = [_model_row(base) for base in base_models.listed(context)]
    _show(rows, as_json)


@models_app.command("verify")
def verify_model(name: str, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Read a base model's stored files and compare their hashes."""
    with _opened(data_dir, config) as context:
        wrong = base_models.verify(context, name)
    for line in wrong:
        typer.echo(line, err=True)
    typer.echo(f"{name}: {'damaged' if wrong else 'every file is as it was stored'}", err=True)
    raise typer.Exit(1 if wrong else 0)


@models_app.command("remove")
def remove_model(name: str, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Remove a base model that no job and no adapter needs."""
    with _opened(data_dir, config) as context:
        base_models.remove(context, name)
    typer.echo(f"{name} is removed", err=True)


@storage_app.callback()
def storage_commands() -> None:
    """A group, although it has one command."""


@storage_app.command("collect")
def collect_objects(
    remove: Annotated[bool, typer.Option("--remove/--dry-run", help="Remove them, or only say what there is.")] = False,
    older_than_hours: Annotated[float, typer.Option(min=1, help="What is younger may be on its way.")] = 24.0,
    most: Annotated[int, typer.Option(min=1, help="So many at a time.")] = 10_000,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Find objects that nothing names: left by failed attempts, or by deletions that did not get through."""
    with _opened(data_dir, config) as context:
        found = orphans.collect_garbage(context, older_than_s=3600 * older_than_hours, most=most, remove=remove)
    _show([vars(each) for each in found], as_json)
    count = sum(each.orphans for each in found)
    typer.echo(f"{count} orphans {'are removed' if remove else '(dry run: --remove removes them)'}", err=True)


def _key_row(key: Key, project: str) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": project,
        "project id": key.project_id,
        "name": key.name,
        "scope": key.scope,
        "begins with": key.prefix,
        "created": key.created_at and moment(key.created_at),
        "expires": key.expires_at and moment(key.expires_at),
        "revoked": key.revoked_at and moment(key.revoked_at),
    }


def _model_row(base: BaseModelRow) -> dict[str, Any]:
    return {
        "name": base.name,
        "model_type": base.facts["model_type"],
        "parameters": base.facts["parameters"],
        "context_window": base.facts["context_window"],
        "bytes": sum(artifact["bytes"] for artifact in base.artifacts),
        "source": base.facts.get("source"),
        "revision": base.facts.get("revision"),
        "digest": base.digest[:12],
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        say_table(list(rows[0]), [["" if value is None else value for value in row.values()] for row in rows])
    else:
        note("nothing here yet")
