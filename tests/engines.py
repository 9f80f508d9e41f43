"""Engines for tests: none waits for the disk, because a database is thrown away after its test."""

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from api.records import database


def install() -> None:
    """Let `api.records.database` make engines that do not wait."""
    records: Any = database
    make = records._engine

    def engine(url: str) -> Engine:
        made: Engine = make(url)
        if made.dialect.name == "sqlite":
            event.listen(made, "connect", _without_waiting)
        return made

    records._engine = engine


def _without_waiting(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
