"""Whose files, runs and queries are: a session of a tenant's finds its own alone, whatever asks for them.

A session without an owner (the operator's, the orchestrator's) finds all. Statements written as text are not narrowed:
what they read by a run's id, a tenant reaches only once `runs.get` has found the run.
"""

import sqlalchemy as sa
from sqlalchemy.orm import ORMExecuteState, with_loader_criteria
from sqlmodel import Session, col

from orchestrator.storage.tables import FileRow, QueryRow, RunRow

OWNED = (FileRow, RunRow, QueryRow)
KEY = "owner"
"""In `Session.info`."""


def of(session: Session) -> str | None:
    """The tenant whose session it is: what it makes is this tenant's. None: the operator's."""
    owner: str | None = session.info.get(KEY)
    return owner


@sa.event.listens_for(Session, "do_orm_execute")
def _own_alone(state: ORMExecuteState) -> None:
    owner = state.session.info.get(KEY)
    if owner is not None and state.is_select and not state.is_column_load:  # a column load is of a row found before
        own = [with_loader_criteria(table, col(table.owner) == owner) for table in OWNED]
        state.statement = state.statement.options(*own)
