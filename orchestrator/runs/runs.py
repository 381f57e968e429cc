"""Runs: submitting them, reading them, calling them off. What happens in between is the stager's and dispatcher's."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.fusion import aggregators, trials
from orchestrator.pool import question_sets
from orchestrator.pool.pool import Pool
from orchestrator.runs import open_lines, pinning
from orchestrator.runs.pinned import Pinned
from orchestrator.runs.pinning import RunRefused
from orchestrator.settings import Settings
from orchestrator.storage import database, owners, stored
from orchestrator.storage.tables import ExpertRow, QuestionSetRow, RunRow
from skills.question import Question

__all__ = ["RunRefused"]

OPEN_STATUSES = ("validating", "in_progress", "finalizing", "cancelling")
_PREFIXES = {"benchmark": "bench-", "batch": "batch_", "profile": "prof-", "aggregator": "aggr-"}


class UnknownRun(LookupError):
    """There is no run of this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id[:80]!r}")
        self.run_id = run_id


class KeyTaken(ValueError):
    """The idempotency key was used for another request."""

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(
            f"the Idempotency-Key {key!r} was used for another request, which became {run_id}: send the same request "
            "to get that again, or another key to start anew"
        )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How far a run is."""

    total: int
    done: int
    """Lines that ended, failed ones included."""
    failed: int
    """Lines that ended without any answer."""


def submit_benchmark(
    session: Session,
    *,
    settings: Settings,
    pool: Pool,
    name: str,
    questions: Sequence[Question],
    k: int | None = None,
    strategy: str | None = None,
    fusion: str | None = None,
    annotation: str | None = None,
    aggregator: str | None = None,
    seed: int = 0,
    baselines: bool = True,
    idempotency_key: str | None = None,
    digest: str | None = None,
) -> RunRow:
    """Write a benchmark and all its lines. What is left out is the service's default.

    `pool` holds the experts to recruit from. `baselines`: also ask every one of them, on all lines or a seeded part
    of them (`pinned.Baselines`). The same `idempotency_key` and `digest` (of the request) give the run they gave
    before. Raises `RunRefused`, `NoExperts`, `KeyTaken` and `TooManyOpenLines`.
    """
    if (present := submitted(session, idempotency_key, digest)) is not None:
        return present
    pinned = pinning.for_benchmark(
        settings=settings,
        pool=pool,
        questions=questions,
        k=k,
        strategy=strategy,
        method=fusion,
        annotated_by=annotation,
        aggregator=aggregator,
        seed=seed,
        with_baselines=baselines,
    )
    open_lines.refuse_if_too_many(session, settings, more=len(questions))
    run = insert(session, kind="benchmark", name=name, pinned=pinned, key=idempotency_key, digest=digest)
    if run is None:  # another request with this key was first
        present = submitted(session, idempotency_key, digest)
        assert present is not None
        return present
    _insert_instances(session, run.id, questions, stage="annotate")
    return run


def submit_profile(session: Session, *, settings: Settings, expert: ExpertRow, question_set: QuestionSetRow) -> RunRow:
    """Write a run in which one expert answers a question set. Raises `RunRefused` where the set is empty."""
    questions = question_sets.labelled(session, question_set).questions
    pinned = pinning.for_profile(expert=expert, question_set=question_set, questions=questions)
    run = insert(session, kind="profile", name=expert.name, pinned=pinned)
    _insert_instances(session, run.id, questions, stage="recruit")
    return run


def submit_aggregator_test(
    session: Session,
    *,
    pool: Pool,
    question_set: QuestionSetRow,
    items: Sequence[aggregators.TestItem],
    natural: Sequence[trials.Item],
    strategy: str,
    k: int,
    seed: int = 0,
) -> RunRow:
    """Write a run in which every expert of the pool merges the same answers. Raises `RunRefused`.

    `items`: prepared ones. `natural`: those that k recruits of `strategy` had given; question ids are all distinct.
    """
    pinned = pinning.for_aggregator_test(
        pool=pool, question_set=question_set, items=items, natural=natural, strategy=strategy, k=k, seed=seed
    )
    run = insert(session, kind="aggregator", name=question_set.name, pinned=pinned)
    questions = [*(item.question for item in items), *(item.question for item in natural)]
    _insert_instances(session, run.id, questions, stage="fuse")
    return run


def get(session: Session, run_id: str) -> RunRow:
    """Raises `UnknownRun`."""
    row = session.get(RunRow, run_id)
    if row is None:
        raise UnknownRun(run_id)
    return row


def listed(session: Session, *, kind: str | None = None, limit: int = 100) -> list[RunRow]:
    """Runs, newest first."""
    query = select(RunRow).order_by(col(RunRow.created_at).desc(), RunRow.id).limit(limit)
    return list(session.exec(query.where(RunRow.kind == kind) if kind else query))


def open_runs(session: Session) -> list[RunRow]:
    """Runs that the stager has to look after, oldest first: batches before and after that, too."""
    is_open_batch = sa.and_(col(RunRow.kind) == "batch", col(RunRow.status).in_(OPEN_STATUSES))
    query = select(RunRow).where(sa.or_(col(RunRow.status) == "in_progress", is_open_batch))
    return list(session.exec(query.order_by(col(RunRow.created_at), RunRow.id)))


def open_of_kind(session: Session, kind: str) -> list[RunRow]:
    """Runs of a kind that have not ended, oldest first."""
    query = select(RunRow).where(RunRow.kind == kind, col(RunRow.status).in_(OPEN_STATUSES))
    return list(session.exec(query.order_by(col(RunRow.created_at), RunRow.id)))


def open_profile(session: Session, expert: ExpertRow) -> RunRow | None:
    """The profile run of this expert version that has not ended, if any."""
    return next((run for run in open_of_kind(session, "profile") if run.pinned["expert_id"] == expert.id), None)


def cancel(session: Session, run_id: str) -> RunRow:
    """Ask for a run to end, keeping what is done; the dispatcher does it within a second or two.

    A run that has ended stays as it is. Raises `UnknownRun`.
    """
    # The key is left alone (FOR NO KEY UPDATE): who adds lines or units meanwhile need not wait.
    found = select(RunRow).where(RunRow.id == run_id).with_for_update(key_share=True)
    row = session.exec(found, execution_options={"populate_existing": True}).first()
    if row is None:
        raise UnknownRun(run_id)
    if row.status in ("validating", "in_progress"):
        row.status = "cancelling"
        session.add(row)
        session.flush()
        session.execute(sa.text("UPDATE batch SET cancelling_at = now() WHERE run_id = :run"), {"run": run_id})
    return row


def give_up(session: Session, run_id: str, reason: str) -> None:
    """End a run that cannot go on, through no fault of its submitter, keeping what is done: it becomes `failed`."""
    row = get(session, run_id)
    if row.status in ("validating", "in_progress"):
        row.status, row.errors = "cancelling", [{"code": "internal_error", "message": reason}]
        session.add(row)


def counts(session: Session, run_id: str) -> Counts:
    """Lines of a run. Raises `UnknownRun`."""
    run = get(session, run_id)
    row = session.execute(
        sa.text(
            "SELECT count(*) FILTER (WHERE stage = 'done') AS done, count(*) FILTER (WHERE error IS NOT NULL) AS failed"
            " FROM instance WHERE run_id = :run"
        ),
        {"run": run_id},
    ).one()
    return Counts(total=run.pinned["lines"], done=row.done, failed=row.failed)


def insert(
    session: Session,
    *,
    kind: str,
    name: str,
    pinned: Pinned,
    status: str = "in_progress",
    key: str | None = None,
    digest: str | None = None,
) -> RunRow | Any:
    """The new run, without its lines; None if the idempotency key is taken."""
    made = session.execute(
        sa.text(
            """
            INSERT INTO run (id, kind, name, status, pinned, totals, errors, owner, idempotency_key, request_digest)
            VALUES (:id, :kind, :name, :status, CAST(:pinned AS jsonb), '{}', '[]', :owner, :key, :digest)
            ON CONFLICT (idempotency_key) DO NOTHING RETURNING id
            """
        ),
        {
            "id": f"{_PREFIXES[kind]}{secrets.token_hex(12)}",
            "kind": kind,
            "name": name,
            "pinned": database.dump_json(pinned.model_dump(mode="json")),
            "status": status,
            "owner": owners.of(session),
            "key": _kept(session, key),
            "digest": digest,
        },
    ).first()
    return session.get_one(RunRow, made.id) if made else None


def _insert_instances(session: Session, run_id: str, questions: Sequence[Question], *, stage: str) -> None:
    database.insert_rows(
        session,
        "instance",
        (
            {
                "run_id": run_id,
                "position": position,
                "custom_id": question.id,
                "question": stored.question_json(question),
                "stage": stage,
                "round": 0,
            }
            for position, question in enumerate(questions)
        ),
    )


def submitted(session: Session, key: str | None, digest: str | None) -> RunRow | None:
    """The run that was submitted under this idempotency key, if any. Raises `KeyTaken` if by another request."""
    if key is None:
        return None
    run = session.exec(select(RunRow).where(RunRow.idempotency_key == _kept(session, key))).first()
    if run is not None and run.request_digest not in (None, digest):
        raise KeyTaken(key, run.id)
    return run


def _kept(session: Session, key: str | None) -> str | None:
    """The key as it is kept: each tenant has its own. A header has no line break, so nobody sends another's."""
    owner = owners.of(session)
    return key if key is None or owner is None else f"{owner}\n{key}"


def digest(*what: object) -> str:
    """What is remembered of a request under an idempotency key."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
