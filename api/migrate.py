"""The schema, by migrations only. Imported by the commands that migrate; the API itself never loads Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from api.records import Database

_MIGRATE_LOCK = 0x41747476


def migrate(database: Database) -> None:
    """Bring the schema to the newest version. Two at once wait for each other."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATE_LOCK})
        command.upgrade(alembic_config(connection), "head")
        connection.commit()


def is_current(database: Database) -> bool:
    with database.engine.connect() as connection:
        have = MigrationContext.configure(connection).get_current_revision()
        return have == ScriptDirectory.from_config(alembic_config(connection)).get_current_head()


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config
