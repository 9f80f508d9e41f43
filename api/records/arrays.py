"""Prepared arrays, under a key made of all that decides their content: a second job on the same rows finds them."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Epoch, Row, db_now


class Arrays(Row):
    __tablename__ = "arrays"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    report: Mapped[dict[str, Any]]
    """What prepare found of this file: format, rows, tokens, findings."""
    created_at: Mapped[float] = mapped_column(Epoch)

    @property
    def storage_key(self) -> str:
        return f"arrays/{self.project_id}/{self.key}.safetensors"


def get(session: Session, key: str) -> Arrays | None:
    return session.get(Arrays, key)


def put(
    session: Session, *, key: str, project_id: str, bytes_total: int, sha256: str, report: dict[str, Any]
) -> Arrays:
    """Two workers may prepare the same rows at once: they make the same arrays, and the later one's row stays."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {"project_id": project_id, "bytes": bytes_total, "sha256": sha256, "report": report}
    statement = insert(Arrays).values(key=key, created_at=db_now(), **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Arrays.key], set_=values))
    return session.get_one(Arrays, key, populate_existing=True)
