"""parent models of jobs; pipelines

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JOB_COLUMNS = {"parent_model": 256, "base_weights": 256, "pipeline_id": 64, "pipeline_stage": 64}
INDEXED = ("parent_model", "base_weights", "pipeline_id")


def upgrade() -> None:
    # Columns are added one by one: a batch on SQLite copies the table and drops the original, to which others refer.
    for name, length in JOB_COLUMNS.items():
        op.add_column("jobs", sa.Column(name, sa.String(length=length), nullable=True))
    for name in INDEXED:
        op.create_index(op.f(f"ix_jobs_{name}"), "jobs", [name], unique=False)
    op.create_table(
        "pipelines",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("suffix", sa.String(length=64), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("stages", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_pipelines_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipelines")),
    )
    op.create_index(op.f("ix_pipelines_project_id"), "pipelines", ["project_id"], unique=False)
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("needs_job_id", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_dependencies_job_id_jobs")),
        sa.ForeignKeyConstraint(["needs_job_id"], ["jobs.id"], name=op.f("fk_job_dependencies_needs_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "needs_job_id", name=op.f("pk_job_dependencies")),
    )
    op.create_index(op.f("ix_job_dependencies_needs_job_id"), "job_dependencies", ["needs_job_id"], unique=False)


def downgrade() -> None:
    op.drop_table("job_dependencies")
    op.drop_table("pipelines")
    for name in INDEXED:
        op.drop_index(op.f(f"ix_jobs_{name}"), "jobs")
    for name in JOB_COLUMNS:
        op.drop_column("jobs", name)
