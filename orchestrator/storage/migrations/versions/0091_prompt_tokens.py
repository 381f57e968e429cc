"""a unit's prompt tokens, which cost less time than those of its completion"""

import sqlalchemy as sa
from alembic import op

revision = "0091"
down_revision = "0079"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default rewrites no row, and processes of before may go on writing units without it.
    op.add_column("unit", sa.Column("prompt_tokens", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("unit", "prompt_tokens")
