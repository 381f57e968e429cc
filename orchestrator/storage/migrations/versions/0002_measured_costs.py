"""measured costs: what models cost on each worker, and what each unit was charged"""

import sqlalchemy as sa
from alembic import op

revision = "0002_measured_costs"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_cost",
        sa.Column("model_key", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("load_s", sa.Float(), nullable=True),
        sa.Column("wake_s", sa.Float(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("prefill_tps", sa.Float(), nullable=True),
        sa.Column("decode_tps", sa.Float(), nullable=True),
        sa.Column("answer_tps", sa.Float(), nullable=True),
        sa.Column("query_tps", sa.Float(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("model_key", "worker"),
    )
    # Constant defaults: PostgreSQL rewrites no row for them, so readers and writers wait for a moment only.
    op.add_column("load", sa.Column("woken", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("load", sa.Column("failed_wake", sa.String(), nullable=True))
    op.add_column("unit", sa.Column("device_s", sa.Float(), server_default="0", nullable=False))
    op.add_column("unit", sa.Column("load_s", sa.Float(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("unit", "load_s")
    op.drop_column("unit", "device_s")
    op.drop_column("load", "failed_wake")
    op.drop_column("load", "woken")
    op.drop_table("model_cost")
