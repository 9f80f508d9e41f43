import pytest
from sqlalchemy import select, update

from api.context import Context
from api.errors import NotFound
from api.infra.storage import StorageUnavailable
from api.records import files as records
from api.records import jobs
from api.records.base import db_now
from api.records.files import File
from api.records.jobs import Job
from api.records.uploads import Upload
from api.services import files, uploads
from api.spec.lifecycle import JobStatus
from tests.factories import a_caller, a_file, a_job
from worker.supervisor.retention import (
    KEEP_UPLOADS_S,
    MAX_REFUSALS,
    delete_ended_states,
    delete_old_rows,
    expire_uploads,
    remove_expired_files,
)

KEY = "uploads/{}/part_1"


def an_upload(context: Context) -> str:
    caller = a_caller(context.database)
    view = uploads.create(
        context,
        caller,
        filename="rows.jsonl",
        purpose="fine-tune",
        mime_type="text/jsonl",
        bytes_total=1,
        expires_after=None,
    )
    context.storage.write_bytes(KEY.format(view.upload.id), b"x")
    return view.upload.id


def test_the_parts_of_an_upload_that_nobody_completed_are_removed(context: Context) -> None:
    over, under_way = an_upload(context), an_upload(context)
    with context.database.write() as session:
        session.execute(update(Upload).where(Upload.id == over).values(expires_at=db_now() - 10))
    expire_uploads(context, grace_s=0)
    assert uploads.get(context, a_caller(context.database), over).upload.status == "expired"
    assert not context.storage.exists(KEY.format(over))
    assert context.storage.exists(KEY.format(under_way))


def test_uploads_without_parts_are_deleted_after_a_month(context: Context) -> None:
    swept, unswept = an_upload(context), an_upload(context)
    with context.database.write() as session:
        session.execute(update(Upload).values(expires_at=db_now() - KEEP_UPLOADS_S - 10, status="cancelled"))
        session.execute(update(Upload).where(Upload.id == swept).values(swept=True))
    delete_old_rows(context)
    with context.database.read() as session:
        assert session.scalars(select(Upload.id)).all() == [unswept]


def test_an_expired_file_goes_once_no_unfinished_job_needs_it(context: Context) -> None:
    caller = a_caller(context.database)
    file_id = a_file(context, caller.project_id)
    job_id = a_job(context.database, caller.project_id)
    with context.database.write() as session:
        session.execute(update(Job).values(training_file=file_id))
        session.execute(update(File).values(expires_at=db_now() - 1))
    assert refused(context, file_id)
    remove_expired_files(context)
    assert context.storage.exists(f"files/{caller.project_id}/{file_id}")
    with context.database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status="cancelled"))
    remove_expired_files(context)
    assert not context.storage.exists(f"files/{caller.project_id}/{file_id}")


def a_stored_state(context: Context, project: str) -> str:
    job_id = a_job(context.database, project, JobStatus.FAILED)
    prefix = f"states/{job_id}/1/000001"
    context.storage.write_bytes(f"{prefix}/state", b"x")
    with context.database.write() as session:
        session.get_one(Job, job_id).state = {"step": 1, "prefix": prefix}
    return job_id


def refuse_deletions(context: Context, monkeypatch: pytest.MonkeyPatch, job_ids: list[str]) -> list[str]:
    """Let the storage refuse to delete these jobs' objects, as a bucket's policy may. Return the refused prefixes."""
    refusals: list[str] = []
    delete_prefix = context.storage.delete_prefix

    def delete(prefix: str) -> None:
        if any(job_id in prefix for job_id in job_ids):
            refusals.append(prefix)
            raise StorageUnavailable(prefix)
        delete_prefix(prefix)

    monkeypatch.setattr(context.storage, "delete_prefix", delete)
    return refusals


def test_states_that_the_storage_keeps_for_ever_keep_no_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = a_caller(context.database).project_id
    kept, *others = (a_stored_state(context, project) for _ in range(3))
    refuse_deletions(context, monkeypatch, [kept])
    delete_ended_states(context)
    with context.database.read() as session:
        assert [bool(session.get_one(Job, job_id).state) for job_id in (kept, *others)] == [True, False, False]
        assert jobs.ended_with_state(session) == [kept], "it is tried again"


def test_states_that_the_storage_keeps_for_ever_do_not_fill_the_limit(context: Context) -> None:
    project = a_caller(context.database).project_id
    stored = {a_stored_state(context, project) for _ in range(2)}
    with context.database.read() as session:
        assert {jobs.ended_with_state(session, limit=1)[0] for _ in range(60)} == stored


def test_a_storage_that_does_not_answer_is_asked_a_few_times(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time may be a time-out."""
    project = a_caller(context.database).project_id
    refusals = refuse_deletions(
        context, monkeypatch, [a_stored_state(context, project) for _ in range(MAX_REFUSALS + 2)]
    )
    with pytest.raises(StorageUnavailable):
        delete_ended_states(context)
    assert len(refusals) == MAX_REFUSALS


def test_expired_files_that_are_needed_keep_no_other_from_its_turn(context: Context) -> None:
    caller = a_caller(context.database)
    needed, free = (a_file(context, caller.project_id) for _ in range(2))
    a_job(context.database, caller.project_id)
    with context.database.write() as session:
        session.execute(update(Job).values(training_file=needed))
        session.execute(update(File).values(expires_at=db_now() - 1))
        session.execute(update(File).where(File.id == needed).values(expires_at=db_now() - 9))
    with context.database.write() as session:
        assert [file.id for file in records.expired(session, limit=1)] == [free]


def refused(context: Context, file_id: str) -> bool:
    try:
        files.get(context, a_caller(context.database), file_id)
    except NotFound:
        return True
    return False
