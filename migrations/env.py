"""Alembic's environment. `api.records.migrate` passes the connection; the tables come from the records."""

from alembic import context

from api.records import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
