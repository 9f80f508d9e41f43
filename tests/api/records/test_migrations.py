import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from api.records import Base, Database, charted_steps, events, jobs
from api.records.events import Event
from api.records.jobs import Job
from api.records.migrate import WrongSchema, alembic_config, is_new, migrate, require_current
from api.records.models import Checkpoint, Model
from api.spec.job_filters import JobFilters
from tests.services import Postgres


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A database that no other test gets: these change its schema."""
    name = postgres.database(postgres_template)
    yield postgres.url(name)
    postgres.drop(name)


def test_migrations_make_exactly_the_schema_of_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)
    require_current(database)


def test_every_migration_can_be_undone(database: Database) -> None:
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert is_new(database)
    with pytest.raises(WrongSchema, match="has no schema yet: run `attune migrate` first"):
        require_current(database)
    migrate(database)
    require_current(database)


def test_older_schema_is_named(database: Database) -> None:
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "-1")
    with pytest.raises(WrongSchema, match=r"has the schema of an older version \(\d+\): run `attune migrate` first"):
        require_current(database)


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Database]:
    """The database of an older release, migrated."""
    with tarfile.open(Path(__file__).parents[2] / "upgrade" / "left" / "data.tar.xz") as archive:
        for name in ("attune.db", "attune.db-wal"):
            if f"data/{name}" in archive.getnames():
                archive.extract(f"data/{name}", tmp_path, filter="data")
    database = Database(f"sqlite:///{tmp_path}/data/attune.db")
    migrate(database)
    yield database
    database.dispose()


def test_models_of_an_older_release_get_their_size(older: Database) -> None:
    with older.read() as session:
        found = [*session.scalars(select(Model)), *session.scalars(select(Checkpoint))]
        assert found
        assert all(row.bytes == sum(artifact["bytes"] for artifact in row.artifacts) > 0 for row in found)


def test_jobs_of_an_older_release_are_found_by_their_metadata(older: Database) -> None:
    with older.read() as session:
        found = session.scalars(select(Job)).all()
        for metadata in ({}, {"team": "a"}):
            page = jobs.page(session, found[0].project_id, JobFilters(metadata=metadata), after=None, limit=100)
            expected = {job.id for job in found if (job.recipe["metadata"] or {}) == metadata}
            assert expected
            assert {job.id for job in page.data} == expected


def test_jobs_of_an_older_release_are_found_by_their_method(older: Database) -> None:
    with older.read() as session:
        found = session.scalars(select(Job)).all()
        assert len({job.method for job in found}) > 1
        assert all(job.method == job.recipe["method"]["type"] for job in found)


def test_steps_of_an_older_release_are_charted(older: Database) -> None:
    with older.read() as session:
        trained = session.scalars(select(Event.job_id).where(Event.type == "metrics").distinct()).all()
        assert trained
        for job_id in trained:
            steps = events.newest_metrics(session, job_id)
            assert charted_steps.of(session, job_id) == (steps, len(steps))


@pytest.mark.parametrize("act", [require_current, migrate])
def test_schema_of_a_newer_version_is_named_and_left_alone(database: Database, act: Callable[[Database], None]) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongSchema, match=r"schema of a newer version of Attune \(9999\)"):
        act(database)
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
