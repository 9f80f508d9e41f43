"""indexes of the few rows that workers look for every few seconds

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op


revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

OPEN, STATE = sa.text("ended_at IS NULL"), sa.text("state IS NOT NULL")


def upgrade() -> None:
    op.create_index("ix_attempts_open", "attempts", ["job_id"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_jobs_with_state", "jobs", ["status"], sqlite_where=STATE, postgresql_where=STATE)
    op.create_index("ix_jobs_started_at", "jobs", ["started_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_started_at", table_name="jobs")
    op.drop_index("ix_jobs_with_state", table_name="jobs")
    op.drop_index("ix_attempts_open", table_name="attempts")
