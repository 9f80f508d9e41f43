"""Database sessions: `read()` for queries, `write()` for one transaction that commits at its end."""

import errno
import json
import select
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from api.records.base import current_time

BUSY_TIMEOUT_S = 15
# The API answers on 40 threads. LIFO reuses the connection that was used last: its cache is warm, and its statements
# are prepared.
POOL = {"pool_size": 20, "max_overflow": 30, "pool_use_lifo": True}
POSTGRESQL = {
    "connect_timeout": 5,
    # A server that vanished without closing its connections is noticed within a minute, not after the kernel's 2 hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class DatabaseGone(SQLAlchemyError):
    """The SQLite file was removed or replaced since it was opened. Open connections would continue to write into the
    removed file, whose content is lost."""


class Database:
    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # A single query needs no transaction: on PostgreSQL, autocommit saves two of three round trips. Connections to
        # SQLite are in autocommit mode anyway.
        options = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = self.engine.execution_options(**options)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for queries. Each query sees everything that was committed before the query began."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a plain connection, for queries that select columns and need no ORM objects.

        Opening an ORM session (`read`) costs more than such a query.
        """
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session with one transaction.

        On SQLite the transaction takes the write lock at its start: a transaction that reads first and then writes
        fails if another one holds the lock, instead of waiting for it.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            if self.is_sqlite:
                session.execute(text("BEGIN IMMEDIATE"))
            yield session

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database, even while others write to the database. SQLite only.

        Raise OSError if the copy cannot be written.
        """
        with self.engine.connect() as connection, closing(sqlite3.connect(path)) as target:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection), self.engine.dialect.name
            try:
                source.backup(target)
            except sqlite3.Error as error:  # a full disk. SQLAlchemy wraps errors of its own statements only.
                raise OSError(errno.EIO, f"the database cannot be copied ({error})", str(path)) from error

    def ping(self) -> None:
        """Raise DBAPIError if the database does not respond."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def clock(self) -> float:
        """Return the Unix time of the database's clock."""
        with self.read() as session:
            return current_time(session)

    def dispose(self) -> None:
        self.engine.dispose()


def is_outage(error: SQLAlchemyError) -> bool:
    """Return whether the state of the database caused the error: the same statement may then succeed later.

    The database may be unreachable, busy, full, read-only, damaged or out of connections.
    """
    if isinstance(error, (PoolTimeout, DatabaseGone)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or error.orig is None:
        return True
    if isinstance(error.orig, sqlite3.Error):
        # The type of the error does not suffice: a wrong statement is an OperationalError, too. The lowest byte of the
        # extended code is the primary code.
        code: int | None = getattr(error.orig, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_FAULTS
    return isinstance(error.orig, _POSTGRESQL_FAULTS) and not _exceeds_limits(error.orig)


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
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, or a server that its operator made read-only
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    psycopg.errors.InternalError_,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)


def _exceeds_limits(error: psycopg.Error) -> bool:
    """Return whether the statement exceeds a limit of PostgreSQL (error class 54).

    psycopg raises OperationalError for this, as for a lost connection, but trying the statement again cannot help.
    """
    return (error.sqlstate or "").startswith("54")


def is_full(error: SQLAlchemyError) -> bool:
    """Return whether the database's disk is full."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error.orig, psycopg.errors.DiskFull)


def holds_nul(error: SQLAlchemyError) -> bool:
    """Return whether the error was caused by a parameter with a NUL character, which PostgreSQL's text cannot
    contain."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.DataError) and "NUL" in str(error.orig)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, **POOL, json_deserializer=_parse_json, connect_args=POSTGRESQL)
        _wrap_operating_system_errors(engine)
        _replace_closed(engine)
        return engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    arguments = {"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    engine = create_engine(parsed, **POOL, json_deserializer=_parse_json, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if parsed.database:
        _require_same_file(engine, Path(parsed.database))
    return engine


def _parse_json(text: str | bytes) -> object:
    """Parse a JSON column several times as fast as the standard library.

    The standard library parses only what the fast parser rejects: NaN and lone surrogates.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _wrap_operating_system_errors(engine: Engine) -> None:
    """Make a new connection raise psycopg's error, which SQLAlchemy wraps, if the process can open no more files.

    psycopg waits for a connection with a selector, whose file it opens outside its own error handling.
    """

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, _: object, arguments: list[Any], options: dict[str, Any]) -> DBAPIConnection:
        try:
            return dialect.connect(*arguments, **options)
        except OSError as error:
            raise psycopg.OperationalError(str(error)) from error


def _replace_closed(engine: Engine) -> None:
    """If the server has closed a connection that is checked out, replace all pooled connections.

    The server sends nothing on an idle connection until it closes the connection. So only a connection with data to
    read has to be tested with a query, whereas SQLAlchemy's `pool_pre_ping` sends that query at each checkout.
    """

    def replace_closed(connection: psycopg.Connection, *_: object) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            return
        try:
            engine.dialect.do_ping(connection)  # type: ignore[arg-type] # psycopg's cursor has more parameters
        except psycopg.Error:
            raise InvalidatePoolError from None

    event.listen(engine, "checkout", replace_closed)


def _require_same_file(engine: Engine, path: Path) -> None:
    """Make every checkout of a connection raise DatabaseGone if the file was removed or replaced."""

    def inode() -> int | None:
        try:
            return path.stat().st_ino
        except OSError:
            return None

    opened = [inode()] if path.exists() else []

    def require(*_: object) -> None:
        if opened and inode() != opened[0]:
            raise DatabaseGone(f"{path} was removed or replaced: restore it, or restart this process")

    @event.listens_for(engine, "connect")
    def remember(*_: object) -> None:
        if not opened and (created := inode()) is not None:
            opened.append(created)

    event.listen(engine, "do_connect", require)  # otherwise SQLite would create an empty file
    event.listen(engine, "checkout", require)
