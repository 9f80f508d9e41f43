"""an index with the names that a search of jobs reads

Revision ID: 0029
Revises: 0028
"""

from alembic import op


revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

ORDER = ["project_id", "created_at"]
NAMES = ["id", "base_model", "parent_model", "model_id"]


def upgrade() -> None:
    op.create_index("ix_jobs_names", "jobs", ORDER + NAMES)
    op.drop_index("ix_jobs_project_id_created_at", table_name="jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_project_id_created_at", "jobs", ORDER)
    op.drop_index("ix_jobs_names", table_name="jobs")
