"""workers: stage, slots, device, version; jobs: expected_s

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op


revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ADDED = ("device", "scanning", "started_at", "stopped_at", "version")


def upgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stage", sa.String(length=16), server_default="train", nullable=False))
        batch_op.add_column(sa.Column("device", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("scanning", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("started_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("stopped_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("version", sa.String(length=32), nullable=True))
        batch_op.alter_column("train_slots", new_column_name="slots")
    op.execute("UPDATE workers SET stage = 'prepare', slots = 1 WHERE slots = 0")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.alter_column("stage", server_default=None)
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expected_s", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("expected_s")
    op.execute("UPDATE workers SET slots = 0 WHERE stage = 'prepare'")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.alter_column("slots", new_column_name="train_slots")
        for name in ADDED:
            batch_op.drop_column(name)
        batch_op.drop_column("stage")
