"""Sessions: `read()` for looking, `write()` for one transaction that commits at its end."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

BUSY_TIMEOUT_S = 15
POOL: dict[str, Any] = {"pool_size": 20, "max_overflow": 30}  # the API answers on 40 threads
POSTGRESQL = {
    "connect_timeout": 5,
    # A server that vanished without a word is noticed within a minute, not after the kernel's two hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Database:
    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction. On SQLite it takes the write lock at once: a read that turns into a write cannot wait."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            if self.is_sqlite:
                session.execute(text("BEGIN IMMEDIATE"))
            yield session

    def ping(self) -> None:
        """Raises DBAPIError when the database does not answer."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def dispose(self) -> None:
        self.engine.dispose()


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether the database was away, or had no connection to spare (to be tried again), not the statement wrong."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or error.orig is None:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):  # which a wrong statement raises, too
        return error.orig.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR)
    return isinstance(error.orig, psycopg.OperationalError)


def is_full(error: SQLAlchemyError) -> bool:
    """Whether the database's disk was."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode == sqlite3.SQLITE_FULL
    return isinstance(error.orig, psycopg.errors.DiskFull)


def holds_nul(error: SQLAlchemyError) -> bool:
    """Whether a text was to be stored, or looked for, that no text in PostgreSQL can be."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.DataError) and "NUL" in str(error.orig)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, **POOL, pool_pre_ping=True, connect_args=POSTGRESQL)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, **POOL, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine
