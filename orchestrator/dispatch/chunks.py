"""Chunks: units on their way to a worker. Made, leased, lost, late, called off. All in the caller's transaction."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.runs import instances
from orchestrator.storage import database
from workers.messages import WorkerState

SUSPECT_LOSSES = 2
"""A unit whose worker was lost so often is a suspect: it runs among suspects, and after one more loss alone."""
SUSPECTS_TOGETHER = 16
"""Most of them were neighbours of a poisonous unit, or of none."""
IDLE_LOSSES_MAX = 10
"""So many losses more, before it was known to be in an engine, and a unit is set aside all the same."""

_LOSSES_ANY = 2**31 - 1
_UNIT_PREFIX = "unit-"
_CREATE = sa.text(
    """
    WITH picked AS (
        SELECT id FROM unit
        WHERE state = 'pending' AND model_key = :model_key AND run_id = :run_id
          AND losses BETWEEN :fewest AND :most
          AND NOT EXISTS (SELECT FROM run WHERE id = :run_id AND status IN ('cancelling', 'finalizing'))
        ORDER BY id LIMIT :size FOR UPDATE SKIP LOCKED
    ), made AS (
        INSERT INTO chunk (run_id, worker, model_key, state, units, alone, lease_until)
        SELECT :run_id, :worker, :model_key, 'sent', count(*), :alone, now() + make_interval(secs => :lease_s)
        FROM picked HAVING count(*) > 0
        RETURNING id
    )
    UPDATE unit SET state = 'sent', chunk_id = made.id
    FROM picked, made WHERE unit.id = picked.id
    RETURNING unit.id, unit.chunk_id, unit.request
    """
)
_RENEW = sa.text(
    """
    UPDATE chunk SET
        lease_until = now() + make_interval(secs => :lease_s),
        held = true,
        holder_started_at = greatest(
            :started_at, (SELECT (state->>'started_at')::float FROM worker WHERE name = :worker)
        ),
        moved_at = CASE
            WHEN id = ANY(CAST(:moved AS bigint[])) THEN now()
            WHEN id = ANY(CAST(:begun AS bigint[])) THEN coalesce(moved_at, now())
            ELSE moved_at END
    WHERE id = ANY(CAST(:ids AS bigint[])) AND worker = :worker AND state = 'sent'
    """
)
_END = sa.text(
    "UPDATE chunk SET state = 'ended' WHERE id = ANY(CAST(:ids AS bigint[])) AND worker = :worker AND state = 'sent'"
    " RETURNING id, alone AND units = 1 AS alone"
)
_LOST = sa.text(
    """
    SELECT chunk.id, held, alone AND units = 1 AS alone, moved_at IS NOT NULL AS begun
    FROM chunk LEFT JOIN worker ON worker.name = chunk.worker
    WHERE chunk.state = 'sent' AND (
        lease_until < now() - make_interval(secs => :unread_s)
        OR holder_started_at < (worker.state->>'started_at')::float
    )
    ORDER BY chunk.id
    """
)
_TOO_LONG = sa.text(
    "SELECT id FROM chunk WHERE state = 'sent' AND moved_at < now() - make_interval(secs => :late_s + :unread_s)"
)
_UNITS_OUT = sa.text("SELECT id, instance_id FROM unit WHERE chunk_id = ANY(CAST(:ids AS bigint[])) AND state = 'sent'")
_MARK = sa.text("UPDATE chunk SET state = :state WHERE id = ANY(CAST(:ids AS bigint[]))")
_GIVE_BACK = sa.text(
    """
    UPDATE unit SET
        losses = losses + :loss,
        attempts = attempts + :attempt,
        state = CASE WHEN out.is_poison THEN 'failed' ELSE 'pending' END,
        completion = CASE WHEN out.is_poison THEN CAST(:verdict AS jsonb) END,
        ended_at = CASE WHEN out.is_poison THEN now() END,
        chunk_id = NULL
    FROM (
        SELECT id, attempts + :attempt >= :max_attempts OR losses + :loss >= :max_losses AS is_poison
        FROM unit WHERE chunk_id = ANY(CAST(:ids AS bigint[])) AND state = 'sent'
    ) AS out
    WHERE unit.id = out.id
    """
)
_FAIL_OUT = sa.text(
    """
    UPDATE unit SET state = 'failed', completion = CAST(:completion AS jsonb), ended_at = now()
    WHERE chunk_id = ANY(CAST(:ids AS bigint[])) AND state = 'sent'
    """
)
_POISON = "the worker died each time it ran this alone, or gave it back: it is set aside"
_UNLUCKY = "its worker died again and again before it could begin this: it is set aside"


@dataclass(frozen=True, kw_only=True)
class NewChunk:
    """A chunk that is committed to be sent: its id, and `Request`s as JSON."""

    id: int
    run_id: str
    requests: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A chunk that is lost."""

    id: int
    held: bool
    """Some progress mentioned it."""
    begun: bool
    """Some progress told that a unit of it had entered an engine."""
    alone: bool
    """It was one suspect's."""


def request_id(unit_id: int) -> str:
    """How a unit is called in requests and completions."""
    return f"{_UNIT_PREFIX}{unit_id}"


def unit_id(request_id: str) -> int | None:
    """The unit that a request id names; None if it names none."""
    digits = request_id.removeprefix(_UNIT_PREFIX)
    return int(digits) if digits.isdecimal() and digits != request_id else None


def create(
    session: Session, *, run_id: str, model_key: str, worker: str, size: int, lease_s: float, alone: bool = False
) -> NewChunk | None:
    """Take the oldest waiting units of a run and model into a new chunk; None if there are none.

    `alone`: suspects, in a chunk that has its worker to itself. Those of a run that is called off wait for their end.
    """
    picks = [(0, SUSPECT_LOSSES - 1, size)]
    if alone:
        picks = [
            (SUSPECT_LOSSES, SUSPECT_LOSSES, min(size, SUSPECTS_TOGETHER)),
            (SUSPECT_LOSSES + 1, _LOSSES_ANY, 1),
        ]
    chunk = {"run_id": run_id, "model_key": model_key, "worker": worker, "lease_s": lease_s, "alone": alone}
    for fewest, most, units in picks:
        rows = session.execute(_CREATE, {**chunk, "fewest": fewest, "most": most, "size": units}).all()
        if rows:
            break
    else:
        return None
    requests = tuple({**row.request, "id": request_id(row.id)} for row in sorted(rows, key=lambda row: row.id))
    return NewChunk(id=rows[0].chunk_id, run_id=run_id, requests=requests)


def renew(
    session: Session,
    ids: Sequence[int],
    *,
    begun: Collection[int],
    moved: Collection[int],
    state: WorkerState,
    lease_s: float,
) -> None:
    """Extend the leases of chunks that a worker holds, by the database's clock.

    Note those it has `begun`, and those that `moved`: it finished units of them.
    """
    if ids:
        news = {"ids": list(ids), "begun": list(begun), "moved": list(moved)}
        session.execute(_RENEW, {**news, "worker": state.worker, "started_at": state.started_at, "lease_s": lease_s})


def end(session: Session, ids: Sequence[int], *, worker: str, is_draining: bool, max_attempts: int) -> None:
    """Close chunks that a worker is done with. Units it gave no completion for wait again.

    A worker that drains hands back what it has not begun. Any other one failed at them: a loss, as if it had died.
    """
    if not ids:
        return
    ended = session.execute(_END, {"ids": list(ids), "worker": worker}).all()
    loss = 0 if is_draining else 1
    for alone in (False, True):
        if closed := [row.id for row in ended if row.alone is alone]:
            attempt = loss if alone else 0
            _give_back(session, closed, state="ended", max_attempts=max_attempts, loss=loss, attempt=attempt)


def lost(session: Session, *, unread_s: float) -> list[Lost]:
    """Chunks that are lost, oldest first.

    Their lease had passed `unread_s` ago (what was told since and is not read may renew), or their worker was started
    again since it last mentioned them.
    """
    rows = session.execute(_LOST, {"unread_s": unread_s})
    return [Lost(id=row.id, held=row.held, begun=row.begun, alone=row.alone) for row in rows]


def take_back(session: Session, gone: Sequence[Lost], *, claimed: Collection[int], max_attempts: int) -> None:
    """Give up chunks: their units wait again, under the next fence.

    A chunk that was never `claimed`, nor mentioned by any progress, was lost as a message, which says nothing about
    its units. A loss counts against units whose worker had them. It costs an attempt only while alone, and if the unit
    was in an engine, or the worker died too soon to tell: what waited for its model to load did not kill anybody.
    """
    had = [chunk for chunk in gone if chunk.held or chunk.id in claimed]
    tried = {chunk.id for chunk in had if chunk.alone and (chunk.begun or not chunk.held)}
    unseen = {chunk.id for chunk in gone} - {chunk.id for chunk in had}
    waited = {chunk.id for chunk in had} - tried
    for ids, loss, attempt in ((unseen, 0, 0), (waited, 1, 0), (tried, 1, 1)):
        if ids:
            _give_back(session, sorted(ids), state="lost", max_attempts=max_attempts, loss=loss, attempt=attempt)


def fail_late(session: Session, *, late_s: float, unread_s: float) -> list[int]:
    """Fail the units of chunks of which nothing was finished for `late_s` since they were begun; returns those units.

    What was told within `unread_s` and is not read yet may be answers. Their instances go on without them. Waiting for
    a load, or for the chunk before, makes nobody late: loads have a limit of their own, and so has the chunk before.
    """
    ids = [row.id for row in session.execute(_TOO_LONG, {"late_s": late_s, "unread_s": unread_s})]
    if not ids:
        return []
    units = session.execute(_UNITS_OUT, {"ids": ids}).all()
    owners = sorted({row.instance_id for row in units})
    instances.lock(session, owners)
    reason = f'{{"finish_reason": "late", "error": "no answer within {late_s:g} s"}}'
    session.execute(_FAIL_OUT, {"ids": ids, "completion": reason})
    session.execute(_MARK, {"ids": ids, "state": "ended"})
    instances.wake(session, owners)
    return [row.id for row in units]


def _give_back(
    session: Session, ids: list[int], *, state: str, max_attempts: int, loss: int = 0, attempt: int = 0
) -> None:
    owners = sorted({row.instance_id for row in session.execute(_UNITS_OUT, {"ids": ids})})
    session.execute(_MARK, {"ids": ids, "state": state})
    if not owners:
        return
    instances.lock(session, owners)
    charged = {"loss": loss, "attempt": attempt}
    most = {"max_attempts": max_attempts, "max_losses": SUSPECT_LOSSES + max_attempts + IDLE_LOSSES_MAX}
    verdict = {"finish_reason": "error", "fault": "request", "error": _POISON if attempt else _UNLUCKY}
    session.execute(_GIVE_BACK, {"ids": ids, "verdict": database.dump_json(verdict), **charged, **most})
    if loss:
        instances.wake(session, owners)
