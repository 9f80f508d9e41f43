"""Backups while the service changes under them, and restores that refuse what is not whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from api.cli.main import app
from api.context import Context
from api.errors import InvalidRequest
from api.infra.storage import Storage
from api.records.files import File
from api.records.jobs import Job
from api.records.migrate import migrate
from api.services import backups, files, signing
from api.services.backups import Contents, DamagedBackup, NotABackup
from api.settings import Settings
from tests.factories import a_caller, a_file, a_job, a_model, a_project
from tests.streams import collected


@pytest.fixture
def service(tmp_path: Path) -> Context:
    context = Context.open(Settings(data_dir=tmp_path / "data"))
    migrate(context.database)
    return context


def quiet(activity: str, count: int) -> None: ...


def backed_up(service: Context, tmp_path: Path) -> tuple[Path, Contents]:
    return tmp_path / "backup", backups.back_up(service, tmp_path / "backup", quiet)


def restored(source: Path, tmp_path: Path) -> Context:
    settings = Settings(data_dir=tmp_path / "restored")
    backups.restore(source, settings, quiet)
    return Context.open(settings)


def a_state(service: Context, job_id: str, step: int) -> str:
    """A saved state, as a worker stores it, to which the job points."""
    prefix = f"states/{job_id}/1/{step:06d}"
    stored = service.storage.write_bytes(f"{prefix}/weights", b"weights")
    listed = {"files": [{"name": "weights", "sha256": stored.sha256}]}
    service.storage.write_bytes(f"{prefix}/manifest.json", json.dumps(listed).encode())
    with service.database.write() as session:
        session.get_one(Job, job_id).state = {"step": step, "prefix": prefix}
    return prefix


def test_all_that_the_database_names_is_back(service: Context, tmp_path: Path) -> None:
    caller = a_caller(service.database)
    file = a_file(service, caller.project_id, b"rows")
    a_model(service, caller.project_id, {"a.safetensors": b"12345"})
    prefix = a_state(service, a_job(service.database, caller.project_id), 7)
    service.storage.write_bytes("models/orphan/1/a", b"nobody names it")
    signing_key = signing.current(service).private_key
    source, contents = backed_up(service, tmp_path)
    assert contents.damaged == []
    assert source.stat().st_mode & 0o777 == 0o700, "others can read secrets in the database"
    again = restored(source, tmp_path)
    assert signing.current(again).private_key == signing_key
    row = files.get(again, caller, file)
    chunks = files.content(again, caller, row, range(row.bytes))
    assert b"".join(collected(chunks)) == b"rows"
    assert b"".join(again.storage.read(f"{prefix}/weights")) == b"weights"
    stored = {
        entry.key
        for kind in ("files", "models", "states")
        for batch in again.storage.list_objects(kind)
        for entry in batch
    }
    assert stored == contents.objects.keys()
    assert "models/orphan/1/a" not in stored


def test_what_is_deleted_during_a_backup_is_deleted_in_it(
    service: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = a_caller(service.database)
    kept, deleted = (a_file(service, caller.project_id, name) for name in (b"kept", b"deleted"))
    job_id = a_job(service.database, caller.project_id)
    old = a_state(service, job_id, 1)

    def change_meanwhile(key: str) -> None:
        """While the first object is copied, a file is deleted, another one comes, and a job saves a newer state."""
        monkeypatch.setattr(Storage, "read_file", read_file)
        files.delete(service, caller, deleted)
        a_file(service, caller.project_id, b"newer")
        a_state(service, job_id, 2)
        service.storage.delete_prefix(old)

    read_file = watched(monkeypatch, change_meanwhile)
    source, contents = backed_up(service, tmp_path)
    assert contents.damaged == []
    again = restored(source, tmp_path)
    with again.database.read() as session:
        named = {file.id: file.storage_key for file in session.scalars(select(File))}
        state = session.get_one(Job, job_id).state
    assert state is not None
    assert kept in named
    assert deleted not in named
    assert all(again.storage.exists(str(key)) for key in [*named.values(), f"{state['prefix']}/weights"])
    assert not any(key.startswith(old) for key in contents.objects)


def watched(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]) -> Any:
    """Run `act` before the next copy of an object. Return the function that copies."""
    copy = Storage.read_file

    def acting(self: Storage, key: str, *arguments: Any, **options: Any) -> Any:
        act(key)
        return copy(self, key, *arguments, **options)

    monkeypatch.setattr(Storage, "read_file", acting)
    return copy


def test_an_object_that_is_damaged_in_the_storage_is_named(service: Context, tmp_path: Path) -> None:
    project = a_project(service.database)
    whole, torn, gone = (a_file(service, project, b"rows") for _ in range(3))
    folder = service.settings.data_dir / "objects" / "files" / project
    (folder / torn).write_bytes(b"r0ws")
    (folder / gone).unlink()
    where = ("--data-dir", str(service.settings.data_dir))
    result = CliRunner().invoke(app, ["backup", str(tmp_path / "backup"), *where, "--json"])
    assert result.exit_code == 6
    assert set(json.loads(result.stdout)["damaged"]) == {f"files/{project}/{name}" for name in (torn, gone)}
    assert f"files/{project}/{torn} is missing or damaged" in result.stderr
    assert restored(tmp_path / "backup", tmp_path).storage.exists(f"files/{project}/{whole}")


def test_a_backup_that_is_damaged_restores_nothing(service: Context, tmp_path: Path) -> None:
    project = a_project(service.database)
    file = a_file(service, project, b"rows")
    source, _ = backed_up(service, tmp_path)
    (source / "objects" / "files" / project / file).write_bytes(b"r0ws")
    with pytest.raises(DamagedBackup, match=f"objects/files/{project}/{file}"):
        restored(source, tmp_path)
    assert list((tmp_path / "restored").iterdir()) == []


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "which `attune backup` writes last"),
        ('{"attune": "9"}', "newer version"),
        ('{"attune": "0", "created_at": "", "database": {"bytes": 1, "sha256": ""}, "damaged": [], "objects": '
         '{"../x": {"bytes": 1, "sha256": ""}}}', "another form"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whole_backup_is_refused(tmp_path: Path, contents: str | None, reason: str) -> None:
    source = tmp_path / "backup"
    source.mkdir()
    if contents is not None:
        (source / "backup.json").write_text(contents)
    with pytest.raises(NotABackup, match=reason):
        restored(source, tmp_path)


def test_nothing_that_exists_is_overwritten(service: Context, tmp_path: Path) -> None:
    source, _ = backed_up(service, tmp_path)
    with pytest.raises(InvalidRequest, match="exists"):
        backups.back_up(service, source, quiet)
    with pytest.raises(InvalidRequest, match="is not empty"):
        backups.restore(source, service.settings, quiet)
    with pytest.raises(InvalidRequest, match="ATTUNE_DATABASE_URL"):
        backups.restore(source, Settings(data_dir=tmp_path / "new", database_url="postgresql://h/d"), quiet)


@pytest.mark.parametrize(
    ("settings", "words"), [({"ATTUNE_DATABASE_URL": "postgresql://h/d"}, "pg_dump"), ({}, "There is no database")]
)
def test_what_cannot_be_backed_up_is_said(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    command = ["backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "none")]
    result = CliRunner().invoke(app, command, env=settings)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []
