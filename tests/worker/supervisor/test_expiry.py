import pytest
from sqlalchemy import select, update

from api.context import Context
from api.errors import NotFound
from api.infra.storage import StorageUnavailable
from api.records import files as records
from api.records.base import db_now
from api.records.files import File
from api.records.jobs import Job
from api.records.uploads import Upload
from api.services import files, uploads
from api.spec.lifecycle import JobStatus
from tests.factories import a_caller, a_file, a_job
from worker.supervisor.retention import KEEP_UPLOADS_S, delete_expired, delete_old, expire_uploads, remove_expired_files

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
    delete_old(context)
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


def test_a_storage_that_keeps_states_for_ever_keeps_no_expired_file(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket's policy may forbid some deletions."""
    caller = a_caller(context.database)
    a_file(context, caller.project_id)
    state = {"step": 1, "prefix": "states/j/1/1"}
    a_job(context.database, caller.project_id, JobStatus.FAILED, state=state)
    with context.database.write() as session:
        session.execute(update(File).values(expires_at=db_now() - 1))

    def refuse(prefix: str) -> None:
        raise StorageUnavailable(prefix)

    monkeypatch.setattr(context.storage, "delete_prefix", refuse)
    with pytest.raises(StorageUnavailable, match="states/"):
        delete_expired(context)
    with context.database.read() as session:
        assert not session.scalars(select(File.id)).all()


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
