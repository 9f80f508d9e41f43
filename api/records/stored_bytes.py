"""Sizes of the stored objects that projects own and can delete, summed by project and key."""

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from api.records.files import File
from api.records.jobs import Job
from api.records.models import Checkpoint, Model
from api.records.uploads import PENDING, Upload, UploadPart

# Each row: project, key, bytes.
_FILES = select(File.project_id, File.key_id, func.sum(File.bytes)).where(File.storage_key.is_not(None))
_UPLOADS = (
    select(Upload.project_id, Upload.key_id, func.sum(UploadPart.bytes))
    .join(UploadPart, UploadPart.upload_id == Upload.id)
    .where(Upload.status == PENDING)
)
_MODELS = select(Model.project_id, Job.key_id, func.sum(Model.bytes)).join(Job, Job.id == Model.job_id)
_CHECKPOINTS = select(Checkpoint.project_id, Job.key_id, func.sum(Checkpoint.bytes)).join(
    Job, Job.id == Checkpoint.job_id
)
OWNED: dict[str, Select[str, str | None, int]] = {
    "files": _FILES,
    "uploads": _UPLOADS,
    "models": _MODELS,
    "checkpoints": _CHECKPOINTS,
}
"""For each kind of object that projects own, the query of its bytes. The caller has to group it by project and key, the
first two columns."""


def by_key(session: Session, project_id: str | None = None) -> dict[tuple[str, str | None], int]:
    """Return {(project, key): stored bytes}, for one project or for all."""
    totals: dict[tuple[str, str | None], int] = {}
    for query in OWNED.values():
        project, key, _ = query.selected_columns
        owned = query if project_id is None else query.where(project == project_id)
        for owner, key_id, size in session.execute(owned.group_by(project, key)):
            totals[owner, key_id] = totals.get((owner, key_id), 0) + int(size)
    return totals


def of_project(session: Session, project_id: str) -> int:
    return sum(by_key(session, project_id).values())
