"""Jobs made a moment ago."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.records.base import db_now
from api.records.jobs import Job


def jobs_since(session: Session, project_id: str, training_file: str, within_s: float) -> Sequence[Job]:
    """The project's jobs of the last `within_s` seconds on this file, newest first."""
    query = select(Job).where(
        Job.project_id == project_id, Job.training_file == training_file, Job.created_at > db_now() - within_s
    )
    return session.scalars(query.order_by(Job.created_at.desc())).all()
