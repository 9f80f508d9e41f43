"""Prepared arrays, under a key made of all that decides their content: a second job on the same rows finds them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert
from api.records.base_models import BaseModelRow
from api.spec.recipe import Recipe
from api.spec.resolve import Labels

CODE_VERSION = 7
"""Raise it when the same rows give other arrays: it is a part of their key."""


class Arrays(Base):
    __tablename__ = "arrays"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    report: Mapped[dict[str, Any]]
    """What prepare found of this file: format, rows, tokens, findings."""
    created_at: Mapped[float] = mapped_column(UnixTime)

    @property
    def storage_key(self) -> str:
        return f"arrays/{self.project_id}/{self.key}.safetensors"


def key_of(
    project_id: str, hashes: Sequence[str | None], recipe: Recipe, base: BaseModelRow, continued: Labels | None = None
) -> str:
    """Of all that decides the arrays' content. The project is a part of it, so nothing crosses projects.

    `hashes`: of the file, after that of the training file, which decides what a validation file's labels are.
    `continued`: labels of the classifier that the job continues, which decide it before either.
    """
    method = recipe.method
    asked = [method.type, method.row_option_values(), recipe.training.format, recipe.training.reasoning]
    parts = [CODE_VERSION, project_id, list(hashes), asked, base.facts["kind"], tokenizer_of(base)]
    if continued is not None:
        parts.append(continued.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_of(base: BaseModelRow) -> list[list[str]]:
    """All that decides how a base model reads rows: its files but the weights, and their hashes."""
    return sorted(
        [each["name"], each["sha256"]] for each in base.artifacts if not each["name"].endswith(".safetensors")
    )


def get(session: Session, key: str) -> Arrays | None:
    return session.get(Arrays, key)


def upsert(
    session: Session, *, key: str, project_id: str, bytes_total: int, sha256: str, report: dict[str, Any]
) -> Arrays:
    """Two workers may prepare the same rows at once: they make the same arrays, and the later one's row stays."""
    values = {"project_id": project_id, "bytes": bytes_total, "sha256": sha256, "report": report}
    statement = insert(session, Arrays).values(key=key, created_at=db_now(), **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Arrays.key], set_=values))
    return session.get_one(Arrays, key, populate_existing=True)
