"""no statistics of columns that change all the time, nor of documents (ADR 0079)"""

from alembic import op

revision = "0079"
down_revision = "0080"
branch_labels = None
depends_on = None

COLUMNS = {
    "instance": ("stage", "ready", "question", "query", "decision", "answers", "fused"),
    "unit": ("state", "request", "completion"),
    "chunk": ("state",),
}


def upgrade() -> None:
    _set_statistics("0")


def downgrade() -> None:
    _set_statistics("-1")  # the server's default


def _set_statistics(target: str) -> None:
    for table, columns in COLUMNS.items():
        op.execute(
            f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {column} SET STATISTICS {target}" for column in columns)
        )
