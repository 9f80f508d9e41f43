"""API keys: the plain text is shown once and never stored; a row holds its SHA-256 and enough to recognise it."""

import hashlib
import secrets
from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.projects import Project
from api.spec.ids import new_id


class Key(Base):
    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(16))
    """The first letters of the plain text, to tell keys apart in a list."""
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(16))
    """admin, write or read."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float | None] = mapped_column(UnixTime)
    revoked_at: Mapped[float | None] = mapped_column(UnixTime)


def hash_of(plain: str) -> str:
    """A plain hash is enough: the key is 256 random bits, which no dictionary holds."""
    return hashlib.sha256(plain.encode()).hexdigest()


def create(
    session: Session, project: Project, *, name: str, scope: str, expires_in_s: float | None = None
) -> tuple[Key, str]:
    """A new key and its plain text, which cannot be had again."""
    plain = "sk-attune-" + secrets.token_urlsafe(32)
    key = Key(
        id=new_id("key_"),
        project_id=project.id,
        name=name,
        prefix=plain[:14],
        sha256=hash_of(plain),
        scope=scope,
        created_at=db_now(),
        expires_at=None if expires_in_s is None else db_now() + expires_in_s,
    )
    session.add(key)
    session.flush()
    return key, plain


def valid(session: Session, plain: str) -> Key | None:
    """The live key with this plain text. It is found by its hash, so no comparison leaks how much of it was right."""
    return session.scalars(
        select(Key).where(
            Key.sha256 == hash_of(plain),
            Key.revoked_at.is_(None),
            or_(Key.expires_at.is_(None), Key.expires_at > db_now()),
        )
    ).one_or_none()


def listed(session: Session) -> Sequence[tuple[Key, str]]:
    """Every key with its project's name, oldest first."""
    rows = session.execute(select(Key, Project.name).join(Project).order_by(Key.created_at))
    return [(key, name) for key, name in rows]


def revoke(session: Session, key_id: str) -> bool:
    """Whether a live key was revoked."""
    done = session.execute(
        update(Key).where(Key.id == key_id, Key.revoked_at.is_(None)).values(revoked_at=db_now()).returning(Key.id)
    )
    return done.first() is not None


def revoke_named(session: Session, project_id: str, name: str) -> None:
    session.execute(
        update(Key)
        .where(Key.project_id == project_id, Key.name == name, Key.revoked_at.is_(None))
        .values(revoked_at=db_now())
    )
