"""The schema, by migrations only. Imported by the commands that migrate; the API itself never loads Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from api.records import Database

FOLDER = Path(migrations.__file__).parent
_MIGRATE_LOCK = 0x41747476


def migrate(database: Database) -> None:
    """Bring the schema to the newest version. Two at once wait for each other. Raises WrongSchema."""
    require_not_newer(database)
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATE_LOCK})
        command.upgrade(alembic_config(connection), "head")
        connection.commit()


class WrongSchema(Exception):
    """The database's schema is not the one that this version of Attune works with; the message says what to do."""


def is_new(database: Database) -> bool:
    """Return whether the database has no schema yet."""
    return _revision(database) is None


def require_current(database: Database) -> None:
    """Raise WrongSchema unless the schema is this version's."""
    require_not_newer(database)
    have = _revision(database)
    if have != _script().get_current_head():
        what = "has no schema yet" if have is None else f"has the schema of an older version ({have})"
        raise WrongSchema(f"The database {what}: run `attune migrate` first.")


def require_not_newer(database: Database) -> None:
    """Raise WrongSchema for a schema that this version does not know."""
    have = _revision(database)
    if have is not None and have not in {script.revision for script in _script().walk_revisions()}:
        raise WrongSchema(
            f"The database has the schema of a newer version of Attune ({have}): install that version or a later one. "
            "Nothing was changed."
        )


def _revision(database: Database) -> str | None:
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(FOLDER))


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config
