"""Queries as kept, prompts and answers: for feedback, and for MUSTER_KEEP_QUERIES_DAYS days."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from orchestrator.online.query import Answer, Event, QueryFailed, Stage
from orchestrator.storage import owners
from orchestrator.storage.tables import QueryRow


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
            owner=owners.of(session),
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


class Record:
    """What is remembered of a query while its events pass by."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._decision: Mapping[str, Any] | None = None
        self._answers: list[Mapping[str, Any]] = []
        self._answer: Answer | None = None
        self._error: BaseException | None = None

    def see(self, event: Event) -> None:
        """Note what the event tells."""
        if isinstance(event, Answer):
            self._answer = event
        elif isinstance(event, Stage) and event.stage == "recruited":
            self._decision = event.detail
        elif isinstance(event, Stage) and event.stage == "answered":
            self._answers.append(event.detail)

    def failed(self, error: BaseException) -> None:
        """Note what ended it."""
        self._error = error

    @property
    def is_worth_keeping(self) -> bool:
        """What was refused before anybody was asked says nothing about experts."""
        return self._answer is not None or self._decision is not None or isinstance(self._error, QueryFailed)

    def columns(self) -> dict[str, Any]:
        """The arguments of `keep`, but for the id."""
        explanation = self._answer.explanation if self._answer else None
        answers = explanation["answers"] if explanation else self._answers
        return {
            "request": self._request,
            "decision": self._decision,
            "answers": {"answers": answers},
            "fused": self._fused(explanation),
            "status": self._status(answers),
        }

    def _fused(self, explanation: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if self._answer is None:
            return {"error": str(self._error)} if isinstance(self._error, Exception) else None
        found = {"text": self._answer.text, "usage": self._answer.usage.as_json(), "charges": self._answer.charges}
        return {**found, **explanation["fusion"], "votes": explanation["votes"]} if explanation else found

    def _status(self, answers: list[Mapping[str, Any]]) -> str:
        if self._answer is not None:
            return "degraded" if any(answer["error"] for answer in answers) else "ok"
        return "failed" if isinstance(self._error, Exception) else "cancelled"
