"""experts that are current no more, and that runs which pinned them go on without"""

import sqlalchemy as sa
from alembic import op

revision = "0094"
down_revision = "0093"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A constant default: no row is rewritten.
    op.add_column("expert", sa.Column("set_aside", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column("expert", "set_aside")
