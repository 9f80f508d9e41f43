from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from api.migrate import alembic_config, is_current, migrate
from api.records import Database, Row


def test_migrations_make_exactly_the_schema_of_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Row.metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)
    assert is_current(database)


def test_every_migration_can_be_undone(database: Database) -> None:
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert not is_current(database)
    migrate(database)
    assert is_current(database)
