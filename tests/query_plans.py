"""How SQLite reads its tables. PostgreSQL chooses by their sizes, so that the empty tables of a test show nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from api.records import Database


@contextmanager
def query_plans(database: Database) -> Iterator[list[str]]:
    """Yield the list of the steps by which SQLite executes the statements of the block, such as `SCAN jobs` for reading
    all jobs. It stays empty for PostgreSQL."""
    plans: list[str] = []

    def explain(connection, cursor, statement, parameters, *_) -> None:
        if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")) and database.is_sqlite:
            lines = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[-1] for row in lines if row[-1] != "SCAN CONSTANT ROW")  # reads no table

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)
