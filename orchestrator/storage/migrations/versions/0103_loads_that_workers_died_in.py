"""loads that a worker died in: they count, but not as much as those of which an engine told"""

import sqlalchemy as sa
from alembic import op

revision = "0103"
down_revision = "0102"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default: no row is rewritten.
    op.add_column("load", sa.Column("worker_died", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("load", "worker_died")
