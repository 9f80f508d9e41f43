"""Judgements: the answers of chat models to graders, stored so that the same question is not asked twice."""

from sqlalchemy import ForeignKey, Integer, String, Text, delete, select, tuple_
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, changed_rows, db_now, insert

BATCH = 1000
"""Number of rows that one statement deletes, at most."""


class StoredJudgement(Base):
    __tablename__ = "judgements"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 over the model, the messages, the parameters of sampling and the schema of the answer."""
    text: Mapped[str] = mapped_column(Text)
    """The model's answer, which was valid for the schema."""
    model: Mapped[str] = mapped_column(String(256))
    """The name that the model gave in its reply."""
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(UnixTime, index=True)


def find(session: Session, project_id: str, digest: str) -> StoredJudgement | None:
    return session.get(StoredJudgement, (project_id, digest))


def add(
    session: Session,
    project_id: str,
    digest: str,
    *,
    text: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
) -> None:
    """Store a judgement. If the question already has one, the stored judgement is kept."""
    statement = insert(session, StoredJudgement).values(
        project_id=project_id,
        digest=digest,
        text=text,
        model=model,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        created_at=db_now(),
    )
    session.execute(statement.on_conflict_do_nothing())


def delete_old(session: Session, keep_s: float) -> int:
    """Delete up to BATCH judgements that are older than `keep_s` seconds. Return their number."""
    old = select(StoredJudgement.project_id, StoredJudgement.digest).where(
        StoredJudgement.created_at <= db_now() - keep_s
    )
    rows = session.execute(old.limit(BATCH)).all()
    if not rows:
        return 0
    keys = [tuple(row) for row in rows]
    ids = tuple_(StoredJudgement.project_id, StoredJudgement.digest)
    return changed_rows(session.execute(delete(StoredJudgement).where(ids.in_(keys))))
