"""What nothing names goes once it is old, and nothing else does."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.context import Context
from api.errors import InvalidRequest
from api.infra.storage import ListedObject, StorageUnavailable
from api.records import arrays, base_models
from api.records.base import db_now
from api.records.jobs import Job
from api.records.models import Checkpoint
from api.records.uploads import UploadPart
from api.services import orphans, uploads
from api.services.orphans import NotThisDatabase
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.factories import a_caller, a_file, a_job, a_model

DAY_S = 86400.0


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    """A folder, whose objects can be made old."""
    return Settings(data_dir=tmp_path / "data", database_url=sqlite_url)


def stored(context: Context, key: str) -> str:
    context.storage.write_bytes(key, b"12345")
    return key


def everything_grows_old(context: Context) -> None:
    for path in (context.settings.data_dir / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 2 * DAY_S,) * 2)


def collect(context: Context, **options: Any) -> dict[str, tuple[int, int, int]]:
    options = {"older_than_s": DAY_S, "most": 1000, "remove": True} | options
    return {each.kind: (each.named, each.young, each.orphans) for each in orphans.collect_garbage(context, **options)}


def of_each_kind(context: Context) -> list[str]:
    """Keys that rows name."""
    caller = a_caller(context.database)
    project = caller.project_id
    a_model(context, project)
    job_id, prefixes = a_job(context.database, project, JobStatus.RUNNING), ["states/{}/1/000002", "states/{}/2/000001"]
    newest, before = (prefix.format(job_id) for prefix in prefixes)
    facts = {"name": "b", "digest": "d", "facts": {}, "created_at": db_now()}
    announced: dict[str, Any] = {"filename": "f", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes_total": 9}
    upload_id = uploads.create(context, caller, **announced, expires_after=None).upload.id
    with context.database.write() as session:
        job, checkpoint = session.get_one(Job, job_id), session.scalars(select(Checkpoint)).one()
        checkpoint.artifacts = [
            {"name": "w", "bytes": 1, "sha256": "0", "key": f"checkpoints/{checkpoint.job_id}/1/000005/w"}
        ]
        keys = [checkpoint.artifacts[0]["key"], f"{newest}/manifest.json", f"{before}/a/b", "base/d/w"]
        job.state = {"step": 2, "prefix": newest, "before": {"step": 1, "prefix": before}}
        session.add(base_models.BaseModelRow(artifacts=[{"name": "w", "sha256": "0", "key": "base/d/w"}], **facts))
        session.add(UploadPart(id="part_1", upload_id=upload_id, bytes=5, sha256="0", created_at=db_now()))
        arrays.upsert(session, key="k", project_id=project, bytes_total=5, sha256="0", report={})
    keys += [f"uploads/{upload_id}/part_1", f"arrays/{project}/k.safetensors"]
    return [stored(context, key) for key in keys]


def test_what_a_row_names_stays_however_old_it_is(context: Context) -> None:
    of_each_kind(context), a_file(context, a_caller(context.database).project_id)
    everything_grows_old(context)
    counts = collect(context)
    assert {kind: orphans for kind, (_, _, orphans) in counts.items()} == dict.fromkeys(counts, 0)
    assert all(named for named, _, _ in counts.values())


ORPHANS = (
    "files/p/file-gone",
    "uploads/upload_gone/part_2",
    "arrays/p/other.safetensors",
    "states/ftjob-gone/1/000001/manifest.json",
    "checkpoints/ftjob-gone/1/000003/manifest.json",
    "models/ftjob-gone/1/model.safetensors",
    "base/other/w",
)


def test_what_no_row_names_goes_once_it_is_old(context: Context) -> None:
    kept, gone = of_each_kind(context), [stored(context, key) for key in ORPHANS]
    assert {young for _, young, _ in collect(context).values()} == {1}
    everything_grows_old(context)
    assert {orphans for _, _, orphans in collect(context, remove=False).values()} == {1}
    assert all(context.storage.exists(key) for key in gone)
    collect(context)
    assert not any(context.storage.exists(key) for key in gone)
    assert all(context.storage.exists(key) for key in kept)


def test_an_orphan_that_the_storage_keeps_for_ever_keeps_no_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_each_kind(context)
    kept, *gone = (stored(context, f"files/p/file-{name}") for name in "abc")
    everything_grows_old(context)
    delete = context.storage.delete

    def refuse(keys: list[str]) -> None:
        if kept in keys:
            raise StorageUnavailable(kept)
        delete(keys)

    monkeypatch.setattr(context.storage, "delete", refuse)
    counted = orphans.collect_garbage(context, older_than_s=DAY_S, most=1000, remove=True)
    assert {each.kind: each.refused for each in counted if each.refused} == {"files": 1}
    assert [context.storage.exists(key) for key in (kept, *gone)] == [True, False, False]


def test_an_older_attempts_model_of_a_job_is_an_orphan(context: Context) -> None:
    a_model(context, a_caller(context.database).project_id)
    (path,) = (context.settings.data_dir / "objects/models").iterdir()
    stale = stored(context, f"models/{path.name}/0/adapter_config.json")
    everything_grows_old(context)
    assert collect(context)["models"] == (1, 0, 1)
    assert not context.storage.exists(stale)


def test_what_is_stored_again_while_the_rest_is_listed_stays(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    of_each_kind(context)
    arrays_key, listed = stored(context, ORPHANS[2]), context.storage.list_objects
    everything_grows_old(context)

    def listed_while_a_job_is_prepared(kind: str) -> Iterator[list[ListedObject]]:
        if kind == "base":
            stored(context, arrays_key)
        return listed(kind)

    monkeypatch.setattr(context.storage, "list_objects", listed_while_a_job_is_prepared)
    assert collect(context)["arrays"] == (1, 0, 1)
    assert context.storage.exists(arrays_key)


def test_no_more_are_taken_at_once_than_was_said(context: Context) -> None:
    of_each_kind(context), [stored(context, key) for key in ORPHANS]
    everything_grows_old(context)
    taken = [sum(orphans for _, _, orphans in collect(context, most=4).values()) for _ in range(3)]
    assert taken == [4, 3, 0]


def test_a_database_that_names_none_of_it_is_taken_for_the_wrong_one(context: Context) -> None:
    orphan, foreign = stored(context, ORPHANS[0]), stored(context, "not-ours/x")
    everything_grows_old(context)
    with pytest.raises(NotThisDatabase):
        collect(context)
    with pytest.raises(InvalidRequest, match="may still be in use"):
        collect(context, older_than_s=60)
    assert context.storage.exists(orphan)
    assert context.storage.exists(foreign)


def test_files_that_a_killed_process_left_half_written_are_collected(context: Context) -> None:
    of_each_kind(context)
    half = context.settings.data_dir / "objects" / "files" / "project" / "file-half#1"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"12345")
    assert collect(context)["files"][1:] == (1, 0)
    everything_grows_old(context)
    assert collect(context)["files"][1:] == (0, 1)
    assert not half.exists()
