"""Arrays prepared from files. Their key is a hash of everything that determines them, so jobs on the same rows share
arrays."""

import hashlib
import json
from collections.abc import Sequence

from sqlalchemy import BigInteger, ForeignKey, String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert
from api.records.base_models import BaseModelRow
from api.spec.fields import JsonObject
from api.spec.recipe import Recipe
from api.spec.resolve import Labels

CODE_VERSION = 8
"""Version of the code that prepares arrays, and a part of their key. Increase it with every change of that code after
which the same rows give other arrays."""


class Arrays(Base):
    __tablename__ = "arrays"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    report: Mapped[JsonObject]
    """Report of the preparation, with the format, the numbers of rows and tokens, and the findings."""
    created_at: Mapped[float] = mapped_column(UnixTime)

    @property
    def storage_key(self) -> str:
        return storage_key(self.project_id, self.key)


def storage_key(project_id: str, key: str) -> str:
    return f"arrays/{project_id}/{key}.safetensors"


def content_key(
    project_id: str, hashes: Sequence[str | None], recipe: Recipe, base: BaseModelRow, continued: Labels | None = None
) -> str:
    """Return the SHA-256 of everything that determines the arrays' content.

    The hash includes the project, so that projects share no arrays. `hashes`: for a training file, its SHA-256; for a
    validation file, the SHA-256 of the training file, which determines the labels, and then its own. `continued`: the
    labels of the classifier that the job continues to train; they take precedence over the labels in the files.
    """
    method = recipe.method
    options = [method.type, method.row_option_values(), recipe.training.format, recipe.training.reasoning]
    parts = [CODE_VERSION, project_id, list(hashes), options, base.facts["kind"], tokenizer_files(base)]
    if continued is not None:
        parts.append(continued.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_files(base: BaseModelRow) -> list[list[str]]:
    """Return the name and the SHA-256 of each file of a base model, except its weights."""
    return sorted([artifact["name"], artifact["sha256"]] for artifact in base.files_without_weights)


def get(session: Session, key: str) -> Arrays | None:
    return session.get(Arrays, key)


def old_and_unused(session: Session, keep_s: float, used: set[str], limit: int = 100) -> Sequence[Arrays]:
    """Return arrays that were prepared more than `keep_s` seconds ago, except those with the keys `used`."""
    old = select(Arrays).where(Arrays.created_at < db_now() - keep_s, Arrays.key.not_in(used))
    return session.scalars(old.limit(limit)).all()


def remove(session: Session, rows: Sequence[Arrays]) -> None:
    session.execute(delete(Arrays).where(Arrays.key.in_([row.key for row in rows])))


def upsert(session: Session, *, key: str, project_id: str, bytes_total: int, sha256: str, report: JsonObject) -> Arrays:
    """Insert the row, or replace the one with the same key. Two workers that prepare the same rows at once produce the
    same arrays."""
    values = {"project_id": project_id, "bytes": bytes_total, "sha256": sha256, "report": report}
    statement = insert(session, Arrays).values(key=key, created_at=db_now(), **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Arrays.key], set_=values))
    return session.get_one(Arrays, key, populate_existing=True)
