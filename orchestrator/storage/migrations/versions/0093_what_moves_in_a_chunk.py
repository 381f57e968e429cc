"""what moves in a chunk: when its worker began it, or last finished a unit of it"""

import sqlalchemy as sa
from alembic import op

revision = "0093"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default: no row is rewritten. What is out counts from the next progress that mentions it.
    op.add_column("chunk", sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("chunk", "moved_at")
