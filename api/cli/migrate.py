"""`attune migrate`: the schema of a production deployment's database."""

import typer

from api.cli import deployment
from api.cli.console import print_result
from api.cli.errors import Command
from api.cli.options import AsJson, Config, DataDirectory, load_operator_settings
from api.context import Context
from api.records.migrate import schema_version

migrate_app = typer.Typer(add_completion=False)


@migrate_app.command(cls=Command, epilog="Example: attune migrate --data-dir /var/lib/attune")
def migrate_schema(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Upgrade the database schema to this version, and tie a new database to its storage."""
    context = Context.open(load_operator_settings(data_dir, config))
    deployment.prepare(context)
    document = {"schema_version": schema_version(context.database)}
    print_result(document, "The database schema is up to date.", as_json=as_json)
