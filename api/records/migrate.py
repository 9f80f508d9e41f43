"""Migration of the schema, and checks of its version. Only commands and the operator's checks
(api.services.diagnosis) import this module, since Alembic takes time to load."""

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
    """Upgrade the schema to the newest version. Concurrent calls wait for each other.

    Raises WrongSchema if the schema is of a newer version of Attune.
    """
    require_not_newer(database)
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATE_LOCK})
        command.upgrade(alembic_config(connection), "head")
        connection.commit()


class WrongSchema(Exception):
    """The database has no schema, or the schema of another version of Attune. The message names the remedy."""


def is_new(database: Database) -> bool:
    """Return whether the database has no schema yet."""
    return schema_version(database) is None


def require_current(database: Database) -> None:
    """Raise WrongSchema unless the database has the newest schema that this version of Attune knows."""
    require_not_newer(database)
    revision = schema_version(database)
    if revision != _script().get_current_head():
        state = "has no schema yet" if revision is None else f"has the schema of an older version ({revision})"
        raise WrongSchema(f"The database {state}: run `attune migrate` first.")


def require_not_newer(database: Database) -> None:
    """Raise WrongSchema if the database has a schema that this version of Attune does not know."""
    revision = schema_version(database)
    if revision is not None and revision not in {script.revision for script in _script().walk_revisions()}:
        raise WrongSchema(
            f"The database has the schema of a newer version of Attune ({revision}): install that version or a later "
            "one. Nothing was changed."
        )


def schema_version(database: Database) -> str | None:
    """Return the version of the schema, or None if the database has none."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(FOLDER))


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config
