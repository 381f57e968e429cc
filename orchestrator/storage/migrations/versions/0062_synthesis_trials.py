"""trials of merging recruits' own answers"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0062"
down_revision = "0002_measured_costs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "synthesis_trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("expert_id", sa.Integer(), nullable=False),
        sa.Column("question_set_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("strategy", sa.String(), nullable=False),
        sa.Column("trials", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["expert_id"], ["expert.id"]),
        sa.ForeignKeyConstraint(["question_set_id"], ["question_set.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("expert_id", "question_set_id", "run_id"),
    )
    op.create_index(op.f("ix_synthesis_trials_expert_id"), "synthesis_trials", ["expert_id"], unique=False)
    op.create_index(op.f("ix_synthesis_trials_question_set_id"), "synthesis_trials", ["question_set_id"], unique=False)


def downgrade() -> None:
    op.drop_table("synthesis_trials")
