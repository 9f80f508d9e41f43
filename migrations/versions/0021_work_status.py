"""indexes of batches and runs of evals by status

Revision ID: 0021
Revises: 0020
"""

from alembic import op


revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("batches", "eval_runs"):
        op.create_index(op.f(f"ix_{table}_status"), table, ["status"], unique=False)


def downgrade() -> None:
    for table in ("batches", "eval_runs"):
        op.drop_index(op.f(f"ix_{table}_status"), table_name=table)
