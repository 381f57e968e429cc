"""Queries as kept: for replay, for feedback, and for as long as the settings say."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from orchestrator.tables import QueryRow


class UnknownQuery(LookupError):
    """No query of this id is kept (any more)."""

    def __init__(self, query_id: str) -> None:
        super().__init__(f"there is no query {query_id!r}, or it was forgotten after its days were over")


def keep(
    session: Session,
    *,
    query_id: str,
    request: Mapping[str, Any],
    status: str,
    decision: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    fused: Mapping[str, Any] | None = None,
) -> None:
    """Keep one query. `status`: "ok", "degraded" (some experts failed), "failed" or "cancelled"."""
    session.add(
        QueryRow(
            id=query_id,
            request=dict(request),
            decision=dict(decision) if decision is not None else None,
            answers=dict(answers) if answers is not None else None,
            fused=dict(fused) if fused is not None else None,
            status=status,
        )
    )


def give_feedback(session: Session, query_id: str, feedback: Mapping[str, Any]) -> None:
    """Note what became of an answer; the latest word counts. Raises `UnknownQuery`."""
    row = session.get(QueryRow, query_id)
    if row is None:
        raise UnknownQuery(query_id)
    row.feedback = dict(feedback)


def forget_old(session: Session, *, days: int) -> int:
    """Delete what is older than `days` by the database's clock; returns how many."""
    oldest = sa.func.now() - dt.timedelta(days=days)
    result = session.connection().execute(sa.delete(QueryRow).where(col(QueryRow.created_at) < oldest))
    return result.rowcount
