"""The declarative base of all tables, and the database's clock."""

from typing import Any, ClassVar

from sqlalchemy import JSON, CursorResult, Double, MetaData, Result, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from api.estimate.stored import Observations, StoredEstimate
from api.spec.artifacts import Artifact, SavedState
from api.spec.base_model import BaseModelFacts
from api.spec.fields import JsonObject
from api.spec.job import JobError, JobProgress, PipelineStage, StoredRecipe

UnixTime = Double
"""Column type of times: Unix seconds with fractions, by the database's clock."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = dict.fromkeys(
        (
            JsonObject,
            dict[str, str],
            BaseModelFacts,
            JobError,
            JobProgress,
            Observations,
            SavedState,
            StoredEstimate,
            StoredRecipe,
        ),
        JSON(none_as_null=True),
    ) | dict.fromkeys((list[Artifact], list[JsonObject], list[PipelineStage], list[str]), JSON)


class db_now(FunctionElement[float]):  # noqa: N801 (reads as the SQL function that it is)
    """Unix seconds by the database's clock. Workers' clocks differ, so no lease is compared with a worker's clock.

    On PostgreSQL it is the time at which the statement begins, not the start of the transaction. It is the same for all
    rows, so that an index on a time finds those before or after it.
    """

    type = Double()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _postgresql(element: db_now, compiler: SQLCompiler, **kw: object) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


@compiles(db_now, "sqlite")
def _sqlite(element: db_now, compiler: SQLCompiler, **kw: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def current_time(session: Session) -> float:
    """Return the database's time."""
    return session.scalars(select(db_now())).one()


def changed_rows(result: Result[Any]) -> int:
    """Return the number of rows that an UPDATE or DELETE changed."""
    assert isinstance(result, CursorResult), result
    return result.rowcount


def insert(session: Session, row: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT of the database's dialect: unlike SQLAlchemy's general INSERT, it supports ON CONFLICT."""
    return sqlite.insert(row) if is_sqlite(session) else postgresql.insert(row)


def is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"
