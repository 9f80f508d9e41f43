"""the method of jobs, and indexes for the filters of their list

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op


revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

METHOD = {"sqlite": "json_extract(recipe, '$.method.type')", "postgresql": "recipe -> 'method' ->> 'type'"}
FILTERS = ("status", "method", "base_model", "parent_model")


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("method", sa.String(length=32), server_default="supervised", nullable=False))
    method = METHOD[op.get_bind().dialect.name]
    op.execute(f"UPDATE jobs SET method = {method} WHERE {method} <> 'supervised'")  # noqa: S608
    for name in FILTERS:
        op.create_index(f"ix_jobs_project_id_{name}_created_at", "jobs", ["project_id", name, "created_at"])


def downgrade() -> None:
    for name in FILTERS:
        op.drop_index(f"ix_jobs_project_id_{name}_created_at", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("method")
