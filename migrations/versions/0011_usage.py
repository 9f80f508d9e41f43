"""usage by day, key and model; budgets of projects

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op


revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BATCH = 500


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cpu_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.Column("gpu_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_usage_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", "day", "key_id", "model", name=op.f("pk_usage")),
    )
    for table in ("jobs", "files", "uploads"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("key_id", sa.String(length=64), nullable=True))
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("tokens", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("monthly_trained_tokens", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("monthly_device_seconds", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True))
    for table in ("models", "checkpoints"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
        _fill_bytes(sa.table(table, sa.column("id"), sa.column("artifacts", sa.JSON), sa.column("bytes")))


def _fill_bytes(table: sa.TableClause) -> None:
    """Set `bytes` of each existing row to the total size of its artifacts."""
    connection = op.get_bind()
    sizes = [
        {"row_id": row.id, "size": sum(artifact["bytes"] for artifact in row.artifacts)}
        for row in connection.execute(sa.select(table.c.id, table.c.artifacts))
    ]
    statement = sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(bytes=sa.bindparam("size"))
    for start in range(0, len(sizes), BATCH):
        connection.execute(statement, sizes[start : start + BATCH])


def downgrade() -> None:
    for table in ("models", "checkpoints"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("bytes")
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_column("max_stored_bytes")
        batch_op.drop_column("monthly_device_seconds")
        batch_op.drop_column("monthly_trained_tokens")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("tokens")
        batch_op.drop_column("gpus")
    for table in ("uploads", "files", "jobs"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("key_id")
    op.drop_table("usage")
