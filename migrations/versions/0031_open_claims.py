"""indexes of the open claims that workers and deliverers look for every few seconds

Revision ID: 0031
Revises: 0030
"""

import sqlalchemy as sa
from alembic import op


revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

OPEN = sa.text("status IS NULL")


def upgrade() -> None:
    op.create_index("ix_idempotency_open", "idempotency", ["claimed_until"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_trackings_owner", "trackings", ["owner"])


def downgrade() -> None:
    op.drop_index("ix_trackings_owner", table_name="trackings")
    op.drop_index("ix_idempotency_open", table_name="idempotency")
