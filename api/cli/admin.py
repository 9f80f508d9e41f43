"""The operator's commands for API keys, base models and storage. They use the database and the storage directly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from api.cli import deployment
from api.cli.console import (
    activity_progress,
    format_size,
    format_time,
    plural,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_raw,
    print_result,
)
from api.cli.errors import CommandError, Commands, ExitCode
from api.cli.listing import print_documents
from api.cli.options import AsJson, Config, DataDirectory, load_operator_settings, make_data_dir
from api.context import Context
from api.errors import ServiceError
from api.infra.storage import StorageUnavailable
from api.records.base_models import BaseModelRow
from api.records.keys import SCOPES, Key
from api.records.migrate import WrongSchema, is_new, require_current
from api.services import base_models, keys, missing_objects, orphans, storage_marker
from api.services.diagnosis import check_libraries
from api.services.storage_marker import WrongStorage

keys_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Create, list and revoke API keys.",
    epilog="Example: attune keys create --name alice --project research",
)
models_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Add, list, verify and remove base models.",
    epilog="Example: attune models add smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct",
)
storage_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Compare the storage with the database, or tie the database to a moved storage.",
    epilog="Example: attune storage collect --remove",
)

BaseModelName = Annotated[str, typer.Argument(help="The base model's name.")]

_NAME_THE_FOLDER = "name the installation's --data-dir"


@contextmanager
def open_context(
    data_dir: Path | None, config: Path | None, *, any_storage: bool = False, creates: bool = True
) -> Iterator[Context]:
    """Yield a context with these options. A new database gets its schema first, or is an error unless `creates`.

    Raise CommandError if the database or the storage cannot be used, or if the database has the schema of another
    version or belongs to another storage.
    `any_storage`: do not check the storage.
    """
    settings = load_operator_settings(data_dir, config)
    if creates:
        make_data_dir(settings)
    elif not settings.data_dir.is_dir():
        raise CommandError(ExitCode.REFUSED, f"{settings.data_dir} does not exist", _NAME_THE_FOLDER)
    context = Context.open(settings)
    try:
        if is_new(context.database):
            if not creates:
                raise CommandError(ExitCode.REFUSED, "The database is empty", _NAME_THE_FOLDER)
            deployment.prepare(context)
        require_current(context.database)
        if not any_storage:
            _require_storage(context)
        yield context
    except ServiceError as error:
        raise CommandError(ExitCode.REFUSED, error.message) from None
    except (WrongSchema, WrongStorage) as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None
    except SQLAlchemyError as error:
        raise deployment.database_error(settings, error) from None
    except StorageUnavailable as error:
        raise deployment.storage_error(error) from None
    finally:
        context.database.dispose()


def _require_storage(context: Context) -> None:
    """Raise WrongStorage if the storage belongs to another database. An unavailable storage is only reported: keys can
    be revoked during an outage."""
    try:
        storage_marker.require(context)
    except StorageUnavailable as error:
        print_note(f"warning: {deployment.storage_error(error)}")


@keys_app.command("create", epilog="Example: attune keys create --name alice --project research --scope write")
def create_key(
    name: Annotated[str, typer.Option(help="A note on the key's use.")] = "key",
    project: Annotated[str, typer.Option(help="The key's project, which is created if it does not exist.")] = "default",
    scope: Annotated[str, typer.Option(help="Permissions: operator, admin, write or read.")] = "write",
    expires_days: Annotated[
        float | None, typer.Option(min=0.001, help="Days until the key expires. Default: never.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Create a key and print it. Only its hash is stored, so it cannot be printed again."""
    if scope not in SCOPES:
        raise typer.BadParameter("use operator, admin, write or read", param_hint="--scope")
    with open_context(data_dir, config) as context:
        expires_in_s = None if expires_days is None else expires_days * 86400
        key, plain = keys.create(context, project=project, name=name, scope=scope, expires_in_s=expires_in_s)
    if as_json:
        print_json(_key_fields(key, project) | {"api_key": plain})
    else:
        print_note(f"{key.id} for project {project} ({scope}); it is shown only once:")
        print_raw(plain)


@keys_app.command("list", epilog="Example: attune keys list")
def list_keys(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List the keys of all projects, without their secrets."""
    with open_context(data_dir, config) as context:
        rows = [_key_fields(key, project) for key, project in keys.listed(context)]
    print_rows(rows, as_json)


@keys_app.command("revoke", epilog="Example: attune keys revoke key-abc123")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `attune keys list`.")],
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Revoke a key. It stops working immediately."""
    with open_context(data_dir, config) as context:
        was_local = keys.revoke(context, key_id)
        credentials = context.settings.credentials_file
    document = {"id": key_id, "revoked": True, "local_key_replaced": was_local}
    print_result(document, f"{key_id} is revoked", as_json=as_json)
    if was_local:
        print_note(f"it was the key of the commands on this machine: {credentials} has a new one")


@models_app.command(
    "add", epilog="Example: attune models add smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct"
)
def add_model(
    name: Annotated[str, typer.Argument(help="The name that jobs use.")],
    source: Annotated[str, typer.Argument(help="A Hugging Face Hub id, a folder or a GGUF file.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit on the hub. Default: main.")] = None,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Add a base model from safetensors or GGUF. Pickled weights and models with custom code are refused."""
    if (libraries := check_libraries()).remedy is not None:
        raise CommandError(ExitCode.REFUSED, f"{libraries.detail}. {libraries.remedy}")
    with open_context(data_dir, config) as context, activity_progress(source) as report:
        base = base_models.add(context, name, source, revision=revision, report=report)
    fields = _model_fields(base)
    if as_json:
        return print_json([fields])
    shown = fields | {"parameters": f"{base.facts['parameters']:,}", "bytes": format_size(fields["bytes"])}
    return print_fields({name: value for name, value in shown.items() if value is not None})


@models_app.command("list", epilog="Example: attune models list")
def list_base_models(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """List the base models."""
    with open_context(data_dir, config) as context:
        rows = [_model_fields(base) for base in base_models.listed(context)]
    print_rows(rows, as_json)


@models_app.command("verify", epilog="Example: attune models verify smollm2-135m-instruct")
def verify_model(
    name: BaseModelName, as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None
) -> None:
    """Compare a base model's stored files with their recorded hashes. The exit code is 1 if one differs."""
    with open_context(data_dir, config) as context:
        errors = base_models.verify(context, name)
    if as_json:
        print_json({"name": name, "damaged": errors})
    else:
        for line in [*errors, f"{name}: {'damaged' if errors else 'every file is intact'}"]:
            print_line(line)
    raise typer.Exit(1 if errors else 0)


@models_app.command("remove", epilog="Example: attune models remove smollm2-135m-instruct")
def remove_model(
    name: BaseModelName, as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None
) -> None:
    """Remove a base model that no job and no adapter uses."""
    with open_context(data_dir, config) as context:
        base_models.remove(context, name)
    print_result({"name": name, "removed": True}, f"{name} is removed", as_json=as_json)


@storage_app.command("claim", epilog="Example: attune storage claim")
def claim_storage(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Tie the database to the configured storage, after the storage was moved or restored.

    Processes that start with another storage end with an error.
    """
    with open_context(data_dir, config, any_storage=True) as context:
        storage_marker.claim(context)
        storage = context.settings.storage
    print_result({"storage": storage}, f"The database belongs to the storage {storage} now.", as_json=as_json)


@storage_app.command("collect", epilog="Example: attune storage collect --remove")
def collect_objects(
    remove: Annotated[bool, typer.Option("--remove/--dry-run", help="Remove the objects, or only count them.")] = False,
    older_than_hours: Annotated[
        float,
        typer.Option(
            min=1, help="Minimum age in hours; a younger object may still be in use by a running upload or job."
        ),
    ] = 24.0,
    most: Annotated[int, typer.Option(min=1, help="Stop after this many orphans.")] = 10_000,
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Find stored objects that no record refers to, left behind by failed attempts and interrupted deletions. The exit
    code is 4 if the storage refused to delete some."""
    with open_context(data_dir, config) as context:
        kinds = orphans.collect_garbage(context, older_than_s=3600 * older_than_hours, most=most, remove=remove)
    print_rows([vars(kind) for kind in kinds], as_json)
    count, size = sum(kind.orphans for kind in kinds), sum(kind.orphan_bytes for kind in kinds)
    outcome = "removed" if remove else "found (dry run: --remove removes them)"
    print_note(f"{count:,} orphans of {format_size(size)} {outcome}")
    if refused := sum(kind.refused for kind in kinds):
        raise CommandError(ExitCode.UNAVAILABLE, f"The storage refused to delete {refused:,} of them")


@storage_app.command("check", epilog="Example: attune storage check")
def check_storage(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Find objects that records refer to and that the storage lacks, as after a restore. The exit code is 6 if any is
    missing.

    Prepared rows and logs are left out: rows are prepared again, and logs may be deleted before their records.
    """
    with open_context(data_dir, config, creates=False) as context:
        missing = missing_objects.find(context)
    if as_json:
        print_json({"missing": missing})
    else:
        for key in missing:
            print_line(key)
        print_note(plural(len(missing), "missing object"))
    raise typer.Exit(ExitCode.CORRUPT if missing else ExitCode.OK)


def _key_fields(key: Key, project: str) -> dict[str, object]:
    return {
        "id": key.id,
        "project": project,
        "project id": key.project_id,
        "name": key.name,
        "scope": key.scope,
        "begins with": key.prefix,
        "created": key.created_at and format_time(key.created_at),
        "expires": key.expires_at and format_time(key.expires_at),
        "revoked": key.revoked_at and format_time(key.revoked_at),
        "last used": key.last_used_at and format_time(key.last_used_at),
    }


def _model_fields(base: BaseModelRow) -> dict[str, object]:
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


def print_rows(rows: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        print_documents(rows, {name: name for name in rows[0]})
    else:
        print_note("There is nothing to list.")
