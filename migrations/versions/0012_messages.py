"""index of the events that are messages

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op


revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

MESSAGES = sa.text("type = 'message'")


def upgrade() -> None:
    op.create_index(
        op.f("ix_events_messages"),
        "events",
        ["job_id", "seq"],
        unique=False,
        sqlite_where=MESSAGES,
        postgresql_where=MESSAGES,
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_events_messages"), "events")
