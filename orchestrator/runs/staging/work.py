"""A batch of instances in the stager's hands: taken, looked at, and written back in a few statements."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.answers import grading
from orchestrator.online.query import Query
from orchestrator.pool.pool import Expert
from orchestrator.recruiting.values import Answered
from orchestrator.runs.asking import Asked
from orchestrator.storage import database, stored
from skills.question import Question

_TAKE = sa.text(
    """
    SELECT id, run_id, position, custom_id, question, query, stage, round, decision
    FROM instance WHERE run_id = :run AND stage = :stage AND ready
    ORDER BY id LIMIT :count FOR UPDATE SKIP LOCKED
    """
)
_UNITS = sa.text(
    """
    SELECT instance_id, stage, round, expert, sample, state, completion
    FROM unit WHERE instance_id = ANY(CAST(:ids AS bigint[])) ORDER BY instance_id, round, id
    """
)
# `ids` are those of the moves: without them the whole table might be read to join it with the moves.
_MOVE = sa.text(
    """
    UPDATE instance SET
        stage = move.stage, ready = move.ready, round = move.round,
        decision = coalesce(move.decision, instance.decision), answers = coalesce(move.answers, instance.answers),
        fused = coalesce(move.fused, instance.fused), answer = coalesce(move.answer, instance.answer),
        correct = coalesce(move.correct, instance.correct), error = coalesce(move.error, instance.error),
        ended_at = CASE WHEN move.stage = 'done' THEN now() END
    FROM jsonb_to_recordset(CAST(:moves AS jsonb)) AS move(
        id bigint, stage text, ready boolean, round int, decision jsonb, answers jsonb, fused jsonb, answer text,
        correct boolean, error text)
    WHERE instance.id = move.id AND instance.id = ANY(CAST(:ids AS bigint[]))
    """
)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One question of a run, as it was taken."""

    id: int
    run_id: str
    position: int
    custom_id: str
    question: Question
    query: Query | None
    """The chat request it is, in a batch."""
    stage: str
    round: int
    decision: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit as the stager reads it."""

    stage: str
    round: int
    expert: str
    sample: int
    state: str
    completion: dict[str, Any]
    """{} until it has ended."""

    @property
    def is_open(self) -> bool:
        return self.state in ("pending", "sent")

    @property
    def is_unloadable(self) -> bool:
        """It failed because its model cannot be loaded: nothing was generated."""
        return self.state == "failed" and self.completion.get("fault") == "model"

    @property
    def tokens(self) -> int:
        """Of its prompt and its completion."""
        return int(self.completion.get("prompt_tokens") or 0) + int(self.completion.get("completion_tokens") or 0)

    def answered(self, question: Question) -> Answered:
        """What came of it, with the answer read out of its text."""
        text = str(self.completion.get("text") or "")
        reason = str(self.completion.get("finish_reason") or "error")
        if self.state != "done":
            reason = "late" if reason == "late" else "error"
        answer = grading.extract(text, question) if reason in ("stop", "length") else ""
        return Answered(expert=self.expert, text=text, answer=answer, finish_reason=reason)


class Batch:
    """What is to become of a batch of instances: their next stages, and the units they need. `write` does it."""

    def __init__(self) -> None:
        self._moves: list[dict[str, Any]] = []
        self._units: list[dict[str, Any]] = []

    def move(
        self,
        instance: Instance,
        stage: str,
        *,
        ready: bool = False,
        round: int | None = None,
        decision: dict[str, Any] | None = None,
        answers: dict[str, Any] | None = None,
        fused: dict[str, Any] | None = None,
        answer: str | None = None,
        correct: bool | None = None,
        error: str | None = None,
    ) -> None:
        """Bring an instance to a stage; what is None stays as it is. `ready`: the stager has to look again."""
        changes = {
            "decision": decision,
            "answers": answers,
            "fused": fused,
            "answer": answer,
            "correct": correct,
            "error": error,
        }
        self._moves.append(
            {
                "id": instance.id,
                "stage": stage,
                "ready": ready,
                "round": instance.round if round is None else round,
                **{name: value for name, value in changes.items() if value is not None},
            }
        )

    def ask(
        self, instance: Instance, expert: Expert, asked: Asked, *, stage: str, round: int = 0, sample: int = 0
    ) -> None:
        """Have an expert generate for an instance."""
        self._units.append(
            {
                "run_id": instance.run_id,
                "instance_id": instance.id,
                "stage": stage,
                "round": round,
                "expert": expert.name,
                "sample": sample,
                "model_key": expert.model.key,
                "request": asked.request,
                "tokens": asked.prompt_tokens + asked.completion_tokens,
                "prompt_tokens": asked.prompt_tokens,
                "state": "pending",
                "attempts": 0,
                "losses": 0,
            }
        )

    def write(self, session: Session) -> None:
        """Write moves and units, in the session's transaction."""
        if self._moves:
            ids = [move["id"] for move in self._moves]
            session.execute(_MOVE, {"moves": database.dump_json(self._moves), "ids": ids})
        database.insert_rows(session, "unit", self._units)


def take(session: Session, run_id: str, stage: str, count: int) -> list[Instance]:
    """Lock up to `count` instances of a run that are ready in a stage, oldest first."""
    return [_instance(row) for row in session.execute(_TAKE, {"run": run_id, "stage": stage, "count": count})]


def _instance(row: Any) -> Instance:
    question = stored.question_of(row.question)
    return Instance(
        id=row.id,
        run_id=row.run_id,
        position=row.position,
        custom_id=row.custom_id,
        question=question,
        query=None if row.query is None else stored.query_of(row.query, question),
        stage=row.stage,
        round=row.round,
        decision=row.decision,
    )


def units_of(session: Session, instances: Sequence[Instance]) -> dict[int, list[Unit]]:
    """Instance id -> its units, by round and age."""
    return units_by_instance(session, [instance.id for instance in instances])


def units_by_instance(session: Session, ids: Sequence[int]) -> dict[int, list[Unit]]:
    """Instance id -> its units, by round and age."""
    units: dict[int, list[Unit]] = defaultdict(list)
    for row in session.execute(_UNITS, {"ids": list(ids)}):
        units[row.instance_id].append(
            Unit(
                stage=row.stage,
                round=row.round,
                expert=row.expert,
                sample=row.sample,
                state=row.state,
                completion=row.completion or {},
            )
        )
    return units
