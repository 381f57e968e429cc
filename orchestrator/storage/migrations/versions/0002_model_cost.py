"""what each model was measured to take"""

import sqlalchemy as sa
from alembic import op

revision = "0002_model_cost"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_cost",
        sa.Column("model_key", sa.String(), nullable=False),
        sa.Column("load_s", sa.Float(), nullable=True),
        sa.Column("token_s", sa.Float(), nullable=True),
        sa.Column("bulk_token_s", sa.Float(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("model_key"),
    )
    op.execute(
        "INSERT INTO model_cost (model_key, load_s)"
        " SELECT model_key, avg(seconds) FROM load WHERE error IS NULL GROUP BY model_key"
    )


def downgrade() -> None:
    op.drop_table("model_cost")
