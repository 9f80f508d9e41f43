"""metadata of jobs in an index

Revision ID: 0026
Revises: 0025
"""

import sqlalchemy as sa
from alembic import op


revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

FILL = """
INSERT INTO job_metadata (project_id, key, value, created_at, job_id)
SELECT project_id, coalesce(pair.key, ''), coalesce(pair.value, ''), created_at, jobs.id
FROM jobs LEFT JOIN {pairs} AS pair ON true
WHERE pair.key <> '' OR pair.value IS NULL
"""
"""A job without metadata gets the empty pair."""
PAIRS = {
    "sqlite": "json_each(jobs.recipe, '$.metadata')",
    "postgresql": "LATERAL json_each_text("
    "CASE json_typeof(jobs.recipe -> 'metadata') WHEN 'object' THEN jobs.recipe -> 'metadata' ELSE '{}' END)",
}


def upgrade() -> None:
    op.create_table(
        "job_metadata",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_job_metadata_project_id_projects")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_metadata_job_id_jobs")),
        sa.PrimaryKeyConstraint("project_id", "key", "value", "created_at", "job_id", name=op.f("pk_job_metadata")),
    )
    op.execute(FILL.format(pairs=PAIRS[op.get_bind().dialect.name]))


def downgrade() -> None:
    op.drop_table("job_metadata")
