"""What a worker's progress message changes: units finished, leases renewed, loads recorded. One transaction each."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator.dispatch import chunks, quarantine
from orchestrator.pool import measured_costs
from orchestrator.runs import instances
from orchestrator.storage import database
from workers.messages import PROGRESS_STREAM, Completion, Finished, LoadEvent, Progress

FAILED_LOADS_MAX = 3
"""A model whose engine fails to load so often in a row is not tried again; one that is itself at fault, never."""
FATAL_LOADS_MAX = 5
"""Nor is one that one worker died of so often in a row while it loaded it. Workers are killed for other reasons, too,
and with their machine all at once."""
LOADS_LOOKED_AT = 100
log = structlog.get_logger()

_FINISH = sa.text(
    """
    UPDATE unit SET
        attempts = attempts + news.attempt,
        losses = losses + CASE news.outcome WHEN 'lost' THEN 1 ELSE 0 END,
        state = CASE
            WHEN news.outcome = 'done' THEN 'done'
            WHEN news.outcome = 'failed' OR news.attempt > 0 AND attempts + news.attempt >= :max_attempts THEN 'failed'
            ELSE 'pending' END,
        completion = CASE
            WHEN news.outcome IN ('done', 'failed') OR news.attempt > 0 AND attempts + news.attempt >= :max_attempts
            THEN news.completion END,
        ended_at = CASE
            WHEN news.outcome IN ('done', 'failed') OR news.attempt > 0 AND attempts + news.attempt >= :max_attempts
            THEN now() END,
        device_s = device_s + coalesce((news.completion->>'device_s')::float, 0),
        load_s = load_s + coalesce((news.completion->>'load_s')::float, 0)
    FROM (
        SELECT told.*, CASE told.outcome
            WHEN 'retry' THEN 1 WHEN 'lost' THEN (chunk.alone AND chunk.units = 1)::int ELSE 0 END AS attempt
        FROM jsonb_to_recordset(CAST(:news AS jsonb))
            AS told(id bigint, chunk_id bigint, outcome text, completion jsonb)
        JOIN chunk ON chunk.id = told.chunk_id
    ) AS news
    WHERE unit.id = news.id AND unit.chunk_id = news.chunk_id AND unit.state = 'sent'
    RETURNING unit.id, unit.instance_id, unit.model_key, news.outcome
    """
)
_CHARGE = sa.text(
    """
    UPDATE unit SET
        device_s = device_s + coalesce((told.completion->>'device_s')::float, 0),
        load_s = load_s + coalesce((told.completion->>'load_s')::float, 0)
    FROM jsonb_to_recordset(CAST(:news AS jsonb)) AS told(id bigint, chunk_id bigint, completion jsonb)
    WHERE unit.id = told.id AND unit.chunk_id = told.chunk_id AND unit.state = 'failed'
      AND unit.completion->>'device_s' IS NULL
    """
)
"""Of units called off, or late, while they were out: their completions are ours, and say nothing of what they took."""
_LOADED = sa.text(
    """
    INSERT INTO load (worker, model_key, run_id, seconds, memory_bytes, error, woken, failed_wake, worker_died)
    VALUES (:worker, :model_key, (SELECT run_id FROM chunk WHERE id = :chunk_id), :seconds, :memory_bytes, :error,
        :woken, :failed_wake, :worker_died)
    """
)
_LAST_LOADS = sa.text(
    "SELECT error IS NOT NULL AS failed, CASE WHEN worker_died THEN worker END AS died FROM load"
    " WHERE model_key = :model_key AND NOT woken ORDER BY id DESC LIMIT :count"
)
_SEEN = sa.text(
    """
    INSERT INTO worker (name, state, seen_at) VALUES (:name, CAST(:state AS jsonb), now())
    ON CONFLICT (name) DO UPDATE SET seen_at = now(), state = excluded.state || jsonb_build_object('started_at',
        greatest((worker.state->>'started_at')::float, (excluded.state->>'started_at')::float))
    """
)
_POSITION = sa.text(
    """
    INSERT INTO stream_position (stream, position) VALUES (:stream, :position)
    ON CONFLICT (stream) DO UPDATE SET position = excluded.position
    """
)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What came of one message."""

    finished: int = 0
    """Units that ended, or wait for their next try."""
    refused: int = 0
    """Completions under an old fence, or of units that had ended already."""
    quarantined: tuple[str, ...] = field(default_factory=tuple)
    """Models that will not be tried again."""


def read(text: str) -> Progress:
    """A message as it was sent, without what PostgreSQL takes in no text. Raises `pydantic.ValidationError`."""
    message = Progress.model_validate_json(text)
    if database.NUL_IN_JSON in text:
        return Progress.model_validate(database.without_nul(message.model_dump()))
    return message


def position(session: Session) -> str:
    """How far the progress stream has been read and committed; "0" at the beginning."""
    found = session.execute(
        sa.text("SELECT position FROM stream_position WHERE stream = :stream"), {"stream": PROGRESS_STREAM}
    ).scalar()
    return str(found or "0")


def commit(session: Session, message: Progress, *, position: str, lease_s: float, max_attempts: int) -> Committed:
    """Write all that a message says, and the stream's position after it."""
    worker = message.state.worker
    faults: dict[str, str] = {}
    finished = _finish(session, message.finished, max_attempts, faults)
    for load in message.loads:
        _record_load(session, worker, load, faults)
        measured_costs.note_load(session, worker, load)
    measured_costs.note_speeds(session, worker, message.speeds)
    chunks.renew(
        session,
        message.chunks,
        begun=message.chunks if message.begun is None else message.begun,
        moved={each.chunk_id for each in message.finished},
        state=message.state,
        lease_s=lease_s,
    )
    chunks.end(session, message.ended, worker=worker, is_draining=message.state.draining, max_attempts=max_attempts)
    unloaded = {load.model_key for load in message.loads if load.error is not None}
    for model_key, reason in faults.items():
        quarantine.model(session, model_key, reason, worker=worker if model_key in unloaded else None)
    session.execute(_SEEN, {"name": worker, "state": message.state.model_dump_json()})
    session.execute(_POSITION, {"stream": PROGRESS_STREAM, "position": position})
    return Committed(finished=finished, refused=len(message.finished) - finished, quarantined=tuple(faults))


def _finish(session: Session, finished: Sequence[Finished], max_attempts: int, faults: dict[str, str]) -> int:
    """Commit completions whose fence matches; note models at fault. Returns how many were accepted."""
    known = [(unit_id, each) for each in finished if (unit_id := chunks.unit_id(each.completion.id)) is not None]
    if not known:
        return 0
    ids = [unit_id for unit_id, _ in known]
    instances.lock_of_units(session, ids)
    news = {unit_id: _news(unit_id, each) for unit_id, each in known}
    rows = session.execute(_FINISH, {"news": _list(news.values()), "max_attempts": max_attempts}).all()
    if refused := news.keys() - {row.id for row in rows}:
        session.execute(_CHARGE, {"news": _list(news[unit_id] for unit_id in refused)})
    reasons = {unit_id: each.completion.error for unit_id, each in known if each.completion.fault == "model"}
    for row in rows:
        if row.id in reasons:
            faults.setdefault(row.model_key, reasons[row.id] or "the model cannot be loaded")
    instances.wake(session, sorted({row.instance_id for row in rows}))
    return len(rows)


def _outcome(completion: Completion) -> str:
    """done, failed (for good), retry (costs an attempt), lost (costs one if it ran alone) or again (costs none)."""
    if completion.fault in ("request", "model"):
        return "failed"
    if completion.engine_died:
        return "lost"
    if completion.fault == "engine" or completion.finish_reason == "error" or completion.error:
        return "retry"
    return "again" if completion.finish_reason == "abort" else "done"


def _news(unit_id: int, finished: Finished) -> str:
    """As JSON; the completion without its id."""
    completion = finished.completion.model_dump_json(exclude={"id"})
    outcome = _outcome(finished.completion)
    return f'{{"id":{unit_id},"chunk_id":{finished.chunk_id},"outcome":"{outcome}","completion":{completion}}}'


def _list(news: Iterable[str]) -> str:
    return f"[{','.join(news)}]"


def _record_load(session: Session, worker: str, load: LoadEvent, faults: dict[str, str]) -> None:
    session.execute(_LOADED, {"worker": worker, **load.model_dump(exclude={"fault"})})
    if load.failed_wake is not None:
        log.warning("a sleeping engine was loaded anew", worker=worker, model=load.model_key, reason=load.failed_wake)
    if load.error is None:
        return
    if load.fault == "model":
        faults.setdefault(load.model_key, load.error)
        return
    latest = session.execute(_LAST_LOADS, {"model_key": load.model_key, "count": LOADS_LOOKED_AT})
    if (why := hopeless([(row.failed, row.died) for row in latest])) is not None:
        faults.setdefault(load.model_key, f"{why}: {load.error}")


def hopeless(latest: Sequence[tuple[bool, str | None]]) -> str | None:
    """Why a model is not loaded again, from its latest loads, newest first: (it failed, who died of it); None: it is.

    Only what came after the last load that was done counts.
    """
    died = [worker for _, worker in itertools.takewhile(lambda load: load[0], latest)]
    if died.count(None) >= FAILED_LOADS_MAX:
        return f"loading failed {FAILED_LOADS_MAX} times in a row"
    if max(Counter(filter(None, died)).values(), default=0) >= FATAL_LOADS_MAX:
        return f"loading it killed a worker {FATAL_LOADS_MAX} times in a row"
    return None
