"""Projects, the owners of files, jobs and models."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.spec.ids import new_id

DEFAULT_PROJECT = "default"


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float] = mapped_column(UnixTime)
    monthly_trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    """Budget (api.services.budgets): tokens that the project's jobs may train on in a month; None for no limit."""
    monthly_device_seconds: Mapped[int | None] = mapped_column(BigInteger)
    """Budget: device seconds that the project's jobs may use in a month; None for no limit."""
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Budget: bytes of stored objects that the project may have; None for no limit."""
    monthly_judge_tokens: Mapped[int | None] = mapped_column(BigInteger)
    """Budget: tokens that judges may read and write for the project in a month; None for the limit in the settings."""

    @property
    def has_budget(self) -> bool:
        """Whether the project has a budget that may refuse jobs."""
        limits = (self.monthly_trained_tokens, self.monthly_device_seconds, self.max_stored_bytes)
        return any(limit is not None for limit in limits)


def find(session: Session, name: str) -> Project | None:
    return session.scalars(select(Project).where(Project.name == name)).one_or_none()


def listed(session: Session) -> Sequence[Project]:
    return session.scalars(select(Project).order_by(Project.created_at, Project.id)).all()


def names(session: Session) -> dict[str, str]:
    """Return {id: name} of all projects."""
    return {row.id: row.name for row in session.execute(select(Project.id, Project.name))}


def get_or_create(session: Session, name: str) -> Project:
    project = find(session, name)
    if project is None:
        project = Project(id=new_id("proj_"), name=name, created_at=db_now())
        session.add(project)
        session.flush()
    return project


def lock(session: Session, project_id: str) -> None:
    """Lock the project until this transaction ends. Other callers of `lock` wait; rows that refer to the project can
    still be added."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
