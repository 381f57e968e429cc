"""Alembic's entry: runs the migrations on the connection it is handed (`orchestrator.storage.database.migrate`)."""

from alembic import context
from sqlmodel import SQLModel

from orchestrator.storage import tables

assert tables.RunRow.metadata is SQLModel.metadata  # the import registers every table

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
with context.begin_transaction():
    context.run_migrations()
