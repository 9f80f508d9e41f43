"""the steps that charts show

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op


revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

events = sa.table("events", sa.column("job_id"), sa.column("seq"), sa.column("type"), sa.column("data", sa.JSON()))


def upgrade() -> None:
    charted = op.create_table(
        "charted_steps",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_charted_steps_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_charted_steps")),
    )
    # Long jobs keep all their steps here until they train again: their charts are complete, but as slow as before.
    step = events.c.data["step"].as_integer()
    newest = sa.select(events.c.job_id, step, sa.func.max(events.c.seq))
    newest = newest.where(events.c.type == "metrics", step.is_not(None)).group_by(events.c.job_id, step)
    op.execute(charted.insert().from_select(["job_id", "step", "seq"], newest))


def downgrade() -> None:
    op.drop_table("charted_steps")
