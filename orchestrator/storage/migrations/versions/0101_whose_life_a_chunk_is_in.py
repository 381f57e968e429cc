"""in which life of its worker a chunk was last mentioned: what a killed one held need not wait for its lease"""

import sqlalchemy as sa
from alembic import op

revision = "0101"
down_revision = "0097"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default: no row is rewritten. What is out waits for its lease, as before.
    op.add_column("chunk", sa.Column("holder_started_at", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("chunk", "holder_started_at")
