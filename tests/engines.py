"""Engines for tests: those of one kind of database share their compiled statements, and none waits for the disk.

Each test has a database of its own, and so an engine of its own, which would compile every statement anew. A database
is thrown away after its test, so nothing has to survive the machine.
"""

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.util import LRUCache

from api.records import database

STATEMENTS = 2000


def install() -> None:
    """SQLAlchemy looks up what it compiled by the statement and the dialect, of which each engine has its own object:
    those of one class become equal. `api.records.database` gives all of them the same arguments."""
    cache: Any = LRUCache(STATEMENTS)
    records: Any = database
    make = records._engine

    def engine(url: str) -> Engine:
        made: Engine = make(url)
        made.update_execution_options(compiled_cache=cache)
        if made.dialect.name == "sqlite":
            event.listen(made, "connect", _without_waiting)
        return made

    records._engine = engine
    kinds: tuple[Any, ...] = (PGDialect_psycopg, SQLiteDialect_pysqlite)
    for kind in kinds:
        kind.__hash__ = lambda self: hash(type(self))
        kind.__eq__ = lambda self, other: type(self) is type(other)


def _without_waiting(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
