"""API keys. The plain text is shown once and never stored; a row holds its SHA-256 and its first characters."""

import hashlib
import secrets
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, ForeignKey, Row, String, bindparam, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.pages import Listing, Page, paginate
from api.records.projects import Project
from api.spec.ids import new_id

SCOPES = ("read", "write", "admin", "operator")
"""Each scope has the rights of the scopes before it. All but the last are limited to the key's project: `operator` also
sees the health and the usage of the whole service."""


class Key(Base):
    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(16))
    """First characters of the plain text, to distinguish keys in a list."""
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(16))
    """One of SCOPES."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float | None] = mapped_column(UnixTime)
    revoked_at: Mapped[float | None] = mapped_column(UnixTime)
    last_used_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time of the last recorded use; the key may have been used up to `api.services.keys.RECORD_S` seconds later. None
    if it was never used."""


LISTING = Listing(Key.project_id, Key.id, (Key.created_at, Key.id))


def hash_of(plain: str) -> str:
    """Return the SHA-256 of a key. No salt is needed: a key has 256 random bits, so no dictionary contains it."""
    return hashlib.sha256(plain.encode()).hexdigest()


def create(
    session: Session, project_id: str, *, name: str, scope: str, expires_in_s: float | None = None
) -> tuple[Key, str]:
    """Create a key. Return it with its plain text, which cannot be recovered later."""
    plain = "sk-attune-" + secrets.token_urlsafe(32)
    key = Key(
        id=new_id("key_"),
        project_id=project_id,
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


LIVE: Sequence[ColumnElement[bool]] = (
    Key.revoked_at.is_(None),
    or_(Key.expires_at.is_(None), Key.expires_at > db_now()),
)
"""Conditions that a key is neither revoked nor expired."""


def find_valid(connection: Connection | Session, plain: str) -> Row[str, str, str, float | None] | None:
    """Return the project, id, scope and IDLE_S of the live key with this plain text; None if there is none.

    The key is found by its hash, so the time that this takes does not show whether a wrong key is partly correct.
    """
    return connection.execute(_VALID, {"sha256": hash_of(plain)}).one_or_none()


IDLE_S = (db_now() - Key.last_used_at).label("idle_s")
"""Seconds since the key's last recorded use; None before the first."""

_VALID = select(Key.project_id, Key.id, Key.scope, IDLE_S).where(Key.sha256 == bindparam("sha256"), *LIVE)
"""Every request runs this statement. It is built once, because SQLAlchemy takes longer to build it than to run it."""


def is_live(session: Session, key_id: str) -> bool:
    return session.scalar(select(Key.id).where(Key.id == key_id, *LIVE)) is not None


def listed(session: Session) -> Sequence[tuple[Key, str]]:
    """Return every key with its project's name, oldest first."""
    rows = session.execute(select(Key, Project.name).join(Project).order_by(Key.created_at, Key.id))
    return [(key, name) for key, name in rows]


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> Page[Key]:
    """Return the project's keys, newest first."""
    return paginate(
        session,
        LISTING,
        project_id,
        select(Key).where(Key.project_id == project_id),
        after=after,
        limit=limit,
    )


def get_live(session: Session, project_id: str, key_id: str) -> Key | None:
    """Return the project's key, unless it is revoked or expired. The key cannot be revoked before the transaction
    ends."""
    query = select(Key).where(Key.project_id == project_id, Key.id == key_id, *LIVE)
    return session.scalars(query.with_for_update()).one_or_none()


def remaining_s(session: Session, key: Key) -> int | None:
    """Return the whole seconds until the key expires; None if it never does."""
    left_s = session.scalar(select(Key.expires_at - db_now()).where(Key.id == key.id))
    return None if left_s is None else int(left_s)


def count_live(session: Session, project_id: str) -> int:
    query = select(func.count()).where(Key.project_id == project_id, *LIVE)
    return session.scalar(query) or 0


def names(session: Session, project_id: str | None) -> dict[str, str]:
    """Return {id of each of the project's keys, or of all projects': its name}, including revoked keys."""
    query = select(Key.id, Key.name)
    rows = session.execute(query if project_id is None else query.where(Key.project_id == project_id))
    return {row.id: row.name for row in rows}


def revoke(session: Session, key_id: str) -> bool:
    """Revoke the key. Return False if it does not exist or is already revoked."""
    updated = session.execute(
        update(Key).where(Key.id == key_id, Key.revoked_at.is_(None)).values(revoked_at=db_now()).returning(Key.id)
    )
    return updated.first() is not None


def revoke_named(session: Session, project_id: str, name: str) -> None:
    session.execute(
        update(Key)
        .where(Key.project_id == project_id, Key.name == name, Key.revoked_at.is_(None))
        .values(revoked_at=db_now())
    )


def record_use(session: Session, key_id: str) -> None:
    session.execute(update(Key).where(Key.id == key_id).values(last_used_at=db_now()))
