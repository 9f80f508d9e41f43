"""Backups of an embedded service: its SQLite database, and every object that a row of the database names.

A backup is made while the service runs. The database is copied first, then the objects that the copy names. If an
object is missing or damaged by then (it may have been deleted with its row), the database is copied again and the new
copy replaces the old, until a copy brings no new missing or damaged objects. Objects copied before remain valid, since
an object never changes under its key.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ValidationError
from sqlalchemy.engine import make_url

from api.context import Context
from api.errors import InvalidRequest, NotFound
from api.infra.storage import ObjectCorrupt, ObjectMissing, Storage
from api.records import Database, objects
from api.settings import Settings
from api.spec.file_hash import file_sha256
from api.spec.manifest import NAME as MANIFEST

CONTENTS, DATABASE, OBJECTS = "backup.json", "attune.db", "objects"
LOGS = "logs/"
"""Prefix of objects that may be missing: a log is deleted before the row that names it."""

Report = Callable[[str, int], None]
"""Function that is called with the current activity and the number of bytes copied so far."""


class NotABackup(InvalidRequest):
    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} is not a complete backup: {reason}")


class DamagedBackup(InvalidRequest):
    def __init__(self, paths: list[str]) -> None:
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        super().__init__(
            f"The backup is damaged, so nothing was restored. Wrong or missing: {', '.join(paths[:5])}{more}"
        )


def _relative(key: str) -> str:
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        raise ValueError("a key must not leave the folder")
    return key


class Copied(BaseModel):
    bytes: int
    sha256: str


class Contents(BaseModel):
    """The content of `backup.json`, which is written last."""

    attune: str
    """The version of Attune that made the backup."""
    created_at: str
    database: Copied
    objects: dict[Annotated[str, AfterValidator(_relative)], Copied]
    damaged: list[str]
    """Keys of objects that were missing or damaged in the storage, and are not in the backup."""

    @property
    def bytes(self) -> int:
        return self.database.bytes + sum(copied.bytes for copied in self.objects.values())


def database_file(settings: Settings) -> Path:
    """Return the path of the SQLite database. Raise InvalidRequest if the settings name another kind of database,
    NotFound if the file does not exist."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise InvalidRequest(
            "`attune backup` copies a SQLite database. Back up PostgreSQL with pg_dump, and then the object storage "
            "(docs/operating.md)"
        )
    path = Path(url.database)
    if not path.is_file():
        raise NotFound(f"There is no database {path}: name the service's folder with --data-dir")
    return path


def back_up(context: Context, target: Path, report: Report) -> Contents:
    """Write a backup into a new folder.

    Raise InvalidRequest if the folder exists, StorageUnavailable if the storage cannot be read, OSError if the backup
    cannot be written.
    """
    if target.exists():
        raise InvalidRequest(f"{target} exists: name a folder that does not")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)  # the database has secrets
    (partial / OBJECTS).mkdir()
    copied: dict[str, Copied] = {}
    missing: set[str] = set()
    while True:
        wanted = _copy_database(context, partial / DATABASE)
        damaged = _copy_objects(context.storage, wanted, partial / OBJECTS, copied, report)
        if damaged <= missing:  # the newest copy still names these objects, so their rows were not deleted
            break
        missing = damaged
    for key in copied.keys() - wanted.keys():
        (partial / OBJECTS / key).unlink()
        del copied[key]
    contents = Contents(
        attune=version("attune"),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database=_hashed(partial / DATABASE),
        objects=copied,
        damaged=sorted(damaged),
    )
    (partial / CONTENTS).write_text(contents.model_dump_json(indent=1))
    partial.rename(target)
    return contents


def _copy_database(context: Context, path: Path) -> dict[str, str | None]:
    """Replace the copy of the database. Return {key of each object that the new copy names: its SHA-256, if known}."""
    path.unlink(missing_ok=True)
    context.database.copy_to(path)
    copy = Database(f"sqlite:///{path}")
    try:
        with copy.read() as session:
            wanted, states = objects.named(session), objects.saved_states(session)
    finally:
        copy.dispose()
    for prefix in states:
        wanted |= dict(_state_objects(context.storage, prefix))
    return wanted


def _state_objects(storage: Storage, prefix: str) -> Iterator[tuple[str, str | None]]:
    """Yield the keys and hashes of the objects of a saved state: the manifest, and, if it exists, the files that it
    lists."""
    yield f"{prefix}/{MANIFEST}", None
    try:
        listed = json.loads(b"".join(storage.read(f"{prefix}/{MANIFEST}")))["files"]
    except ObjectMissing:
        return
    for entry in listed:
        yield f"{prefix}/{entry['name']}", entry["sha256"]


def _copy_objects(
    storage: Storage, wanted: dict[str, str | None], folder: Path, copied: dict[str, Copied], report: Report
) -> set[str]:
    """Copy the objects that are not copied yet. Return the keys of objects that are missing or damaged, except logs."""
    damaged = set()
    total = sum(each.bytes for each in copied.values())
    for key, sha256 in wanted.items():
        if key in copied:
            continue
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stored = storage.read_file(key, path, sha256=sha256)
        except (ObjectMissing, ObjectCorrupt):
            path.unlink(missing_ok=True)
            if not key.startswith(LOGS):
                damaged.add(key)
            continue
        copied[key] = Copied(**vars(stored))
        total += stored.bytes
        report("copying", total)
    return damaged


def restore(source: Path, settings: Settings, report: Report) -> Contents:
    """Restore a backup into an empty data folder.

    Raise InvalidRequest if the data folder is not empty or the settings name another database or storage, NotABackup if
    the source is no complete backup, DamagedBackup if its files are damaged, OSError if files cannot be written.
    """
    if settings.database_url or settings.storage_url:
        raise InvalidRequest(
            "`attune restore` restores into a data folder: unset ATTUNE_DATABASE_URL and ATTUNE_STORAGE_URL"
        )
    folder = settings.data_dir
    if folder.exists() and any(folder.iterdir()):
        raise InvalidRequest(f"{folder} is not empty: name a new folder with --data-dir")
    contents = _contents(source)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / "restoring"
    try:
        _restore_files(source, contents, partial, report)
        (partial / OBJECTS).rename(folder / OBJECTS)
        (partial / DATABASE).rename(folder / DATABASE)  # last: a folder with a database counts as complete
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return contents


def _contents(source: Path) -> Contents:
    try:
        return Contents.model_validate_json((source / CONTENTS).read_bytes())
    except FileNotFoundError:
        raise NotABackup(source, f"it has no {CONTENTS}, which `attune backup` writes last") from None
    except ValidationError:
        raise NotABackup(
            source, f"its {CONTENTS} has another form. A newer version of Attune may have made it"
        ) from None


def _restore_files(source: Path, contents: Contents, partial: Path, report: Report) -> None:
    partial.mkdir(mode=0o700)
    (partial / OBJECTS).mkdir(mode=0o700)
    files = {DATABASE: contents.database} | {f"{OBJECTS}/{key}": copied for key, copied in contents.objects.items()}
    damaged, total = [], 0
    for name, expected in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / name, path)
        except FileNotFoundError:
            damaged.append(name)
            continue
        if _hashed(path) != expected:  # the copy is hashed, so that this disk is checked, too
            damaged.append(name)
        total += expected.bytes
        report("restoring", total)
    if damaged:
        raise DamagedBackup(damaged)


def _hashed(path: Path) -> Copied:
    return Copied(bytes=path.stat().st_size, sha256=file_sha256(path))
