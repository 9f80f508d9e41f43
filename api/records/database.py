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


class DatabaseGone(SQLAlchemyError):
    """The database's file is not the one that was opened: it was removed, or replaced. Open connections would go on
    writing into the removed file, and nobody would ever read that again."""


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
    """Return whether the database was at fault (away, busy, full, read-only, damaged, out of connections) and not the
    statement: then the same may succeed later."""
    if isinstance(error, (PoolTimeout, DatabaseGone)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or error.orig is None:
        return True
    if isinstance(error.orig, sqlite3.Error):
        # The extended code holds the primary one in its lowest byte. A wrong statement is an OperationalError, too.
        code: int | None = getattr(error.orig, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_FAULTS
    return isinstance(error.orig, _POSTGRESQL_FAULTS) and not _is_statements_own(error.orig)


_SQLITE_FAULTS = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
)
_POSTGRESQL_FAULTS = (
    psycopg.OperationalError,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, or a server that its operator lets only be read
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.InternalError_,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)


def _is_statements_own(error: psycopg.Error) -> bool:
    """Whether PostgreSQL calls it operational, though the same statement would always fail: class 54, its limits."""
    return (error.sqlstate or "").startswith("54")


def is_full(error: SQLAlchemyError) -> bool:
    """Whether the database's disk was."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
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

    if parsed.database:
        _stay_with_file(engine, Path(parsed.database))
    return engine


def _stay_with_file(engine: Engine, path: Path) -> None:
    """Raise DatabaseGone wherever a connection is asked for and the file is not there, or is another."""

    def inode() -> int | None:
        try:
            return path.stat().st_ino
        except OSError:
            return None

    opened = [inode()] if path.exists() else []

    def require(*_: Any) -> None:
        if opened and inode() != opened[0]:
            raise DatabaseGone(f"{path} was removed or replaced: restore it, or restart this process")

    @event.listens_for(engine, "connect")
    def note(*_: Any) -> None:
        if not opened and (found := inode()) is not None:
            opened.append(found)

    event.listen(engine, "do_connect", require)  # else SQLite would make an empty file
    event.listen(engine, "checkout", require)
