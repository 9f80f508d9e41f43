"""Base models that jobs can fine-tune. The operator adds them; all projects share them."""

from collections.abc import Sequence

from sqlalchemy import String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime
from api.spec.artifacts import Artifact
from api.spec.base_model import BaseModelFacts


class BaseModelRow(Base):
    __tablename__ = "base_models"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 over the names and hashes of the artifacts. Workers cache the files of the base model under this key."""
    facts: Mapped[BaseModelFacts]
    artifacts: Mapped[list[Artifact]]
    created_at: Mapped[float] = mapped_column(UnixTime)

    @property
    def files_without_weights(self) -> list[Artifact]:
        """The files that determine how rows are tokenized."""
        return [artifact for artifact in self.artifacts if not artifact["name"].endswith(".safetensors")]


def get(session: Session, name: str) -> BaseModelRow | None:
    return session.get(BaseModelRow, name)


def get_to_use(session: Session, name: str) -> BaseModelRow | None:
    """Return the base model, locked against removal until this transaction ends."""
    query = select(BaseModelRow).where(BaseModelRow.name == name)
    return session.scalars(query.with_for_update(read=True)).one_or_none()


def get_to_remove(session: Session, name: str) -> BaseModelRow | None:
    """Return the base model, locked against new uses until this transaction ends."""
    return session.scalars(select(BaseModelRow).where(BaseModelRow.name == name).with_for_update()).one_or_none()


def listed(session: Session) -> Sequence[BaseModelRow]:
    return session.scalars(select(BaseModelRow).order_by(BaseModelRow.name)).all()


def names(session: Session) -> Sequence[str]:
    return session.scalars(select(BaseModelRow.name).order_by(BaseModelRow.name)).all()


def remove(session: Session, name: str) -> None:
    session.execute(delete(BaseModelRow).where(BaseModelRow.name == name))
