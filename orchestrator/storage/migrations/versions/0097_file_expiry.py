"""file expiry: when files go, how long a batch's own files stay, and the model that all of its lines name"""

import sqlalchemy as sa
from alembic import op

revision = "0097"
down_revision = "0094"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns without a default: no row is rewritten, and processes of before go on.
    op.add_column("file", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("batch", sa.Column("output_expires_after_s", sa.Integer(), nullable=True))
    op.add_column("batch", sa.Column("model", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("batch", "model")
    op.drop_column("batch", "output_expires_after_s")
    op.drop_column("file", "expires_at")
