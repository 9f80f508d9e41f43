"""scans of files; memory of workers; estimates of jobs

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op


revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("scan_status", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("scan_fence", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("scan_until", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("scan", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index(batch_op.f("ix_files_scan_status"), ["scan_status"], unique=False)

    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("bfloat16", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("observed", sa.JSON(none_as_null=True), nullable=True))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("estimate", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("estimate")

    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("observed")
        batch_op.drop_column("bfloat16")
        batch_op.drop_column("gpu_memory_bytes")
        batch_op.drop_column("memory_bytes")

    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_files_scan_status"))
        batch_op.drop_column("scan")
        batch_op.drop_column("scan_until")
        batch_op.drop_column("scan_fence")
        batch_op.drop_column("scan_status")
