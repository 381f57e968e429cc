"""whose a file, a run and a query is: a tenant's, or (NULL) the operator's"""

import sqlalchemy as sa
from alembic import op

revision = "0102"
down_revision = "0101"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default: no row is rewritten, and what is there is the operator's. The idempotency key stays unique by
    # itself: processes of before write runs meanwhile, and rely on it.
    op.add_column("file", sa.Column("owner", sa.String(), nullable=True))
    op.add_column("run", sa.Column("owner", sa.String(), nullable=True))
    op.add_column("query", sa.Column("owner", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("query", "owner")
    op.drop_column("run", "owner")
    op.drop_column("file", "owner")
