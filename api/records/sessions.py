"""Sessions of the dashboard. A session stands in for an API key in one browser, and ends when the key does or earlier.

The browser holds a random token. The row of a session, like that of a key, holds only the SHA-256 of the token.
"""

import secrets

from sqlalchemy import Connection, ForeignKey, Row, String, bindparam, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import keys
from api.records.base import Base, UnixTime, db_now
from api.records.keys import Key
from api.records.projects import Project


class BrowserSession(Base):
    __tablename__ = "sessions"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("keys.id"), index=True)
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float] = mapped_column(UnixTime, index=True)


def create(session: Session, key_id: str, expires_in_s: float) -> str:
    """Create a session for a key, and delete expired sessions. Return its token, which cannot be recovered."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= db_now()))
    token = secrets.token_urlsafe(32)
    session.add(
        BrowserSession(
            sha256=keys.hash_of(token), key_id=key_id, created_at=db_now(), expires_at=db_now() + expires_in_s
        )
    )
    return token


def find_valid(connection: Connection, token: str) -> Row[str, str, str, float | None] | None:
    """Return the project, id, scope and idle time of the key that the session with this token stands in for; None if
    the session or the key is no longer live."""
    return connection.execute(_VALID, {"sha256": keys.hash_of(token)}).one_or_none()


_VALID = (
    select(Key.project_id, Key.id, Key.scope, keys.IDLE_S)
    .join(BrowserSession, BrowserSession.key_id == Key.id)
    .where(BrowserSession.sha256 == bindparam("sha256"), BrowserSession.expires_at > db_now(), *keys.LIVE)
)


def end(session: Session, token: str) -> None:
    session.execute(delete(BrowserSession).where(BrowserSession.sha256 == keys.hash_of(token)))


def key_with_project(connection: Connection | Session, key_id: str) -> Row[str, str, str, str, str]:
    """Return a key's id, name, prefix and scope, and the name of its project."""
    return connection.execute(
        select(Key.id, Key.name, Key.prefix, Key.scope, Project.name).join(Project).where(Key.id == key_id)
    ).one()
