"""Ending runs that are cancelled, expired or cannot go on, and telling workers which."""

from collections.abc import Iterable
from typing import cast

import redis
import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.dispatch import chunks
from workers.messages import CANCELLED_KEY

ANNOUNCED_S = 600
"""A cancelled run stays in the set for so long: by then no worker holds a chunk of it."""

CANCELLED, EXPIRED = "cancelled", "expired"
"""Errors of lines that were called off, and of lines whose batch's window had passed."""

_CANCELLING = sa.text(
    """
    SELECT id, kind, errors FROM run
    WHERE status = 'cancelling'
      AND (kind <> 'batch' OR EXISTS (SELECT FROM instance WHERE run_id = run.id AND stage <> 'done'))
    ORDER BY id FOR UPDATE
    """
)
_EXPIRING = sa.text(
    """
    UPDATE run SET status = 'finalizing' WHERE status = 'in_progress'
      AND id IN (SELECT run_id FROM batch WHERE expires_at <= now()) RETURNING id
    """
)
_EXPIRED = sa.text("UPDATE batch SET has_expired = true, finalizing_at = now() WHERE run_id = :run")
_RECENT = sa.text(
    "SELECT id FROM run WHERE status IN ('cancelling', 'finalizing', 'cancelled', 'expired', 'failed')"
    " AND (ended_at IS NULL OR ended_at > now() - make_interval(secs => :announced_s))"
)
_END_INSTANCES = sa.text(
    "UPDATE instance SET stage = 'done', ready = false, error = :why, ended_at = now()"
    " WHERE run_id = :run AND stage <> 'done'"
)
_END_UNITS = sa.text(
    """
    UPDATE unit SET state = 'failed', ended_at = now(),
        completion = jsonb_build_object('finish_reason', 'abort', 'error', CAST(:why AS text))
    WHERE run_id = :run AND state IN ('pending', 'sent')
    """
)
_END_CHUNKS = sa.text("UPDATE chunk SET state = 'ended' WHERE run_id = :run AND state = 'sent'")
_END_RUN = sa.text("UPDATE run SET status = :status, ended_at = now() WHERE id = :run")


def end_runs(session: Session) -> list[str]:
    """End every run that is being cancelled, keeping the lines that are done. Returns those runs.

    A batch ends once its files are written: here only its lines do.
    """
    ended = session.execute(_CANCELLING).all()
    for run in ended:
        # One that has errors was given up by us: it failed.
        _end_lines(session, run.id, run.errors[0]["message"] if run.errors else CANCELLED)
        if run.kind != "batch":
            session.execute(_END_RUN, {"run": run.id, "status": "failed" if run.errors else "cancelled"})
    return [run.id for run in ended]


def expire_batches(session: Session) -> list[str]:
    """End the lines of every batch whose window has passed, keeping those that are done. Returns those batches."""
    expired = list(session.scalars(_EXPIRING).all())
    for run_id in expired:
        _end_lines(session, run_id, EXPIRED)
        session.execute(_EXPIRED, {"run": run_id})
    return expired


def _end_lines(session: Session, run_id: str, why: str) -> None:
    # Instances first: the stager may be adding units to one it holds.
    for statement in (_END_INSTANCES, _END_UNITS, _END_CHUNKS):
        session.execute(statement, {"run": run_id, "why": why})


def recent_runs(session: Session) -> list[str]:
    """Runs that workers should still be told about."""
    return list(session.scalars(_RECENT, params={"announced_s": ANNOUNCED_S}).all())


def announce(client: redis.Redis, *, run_ids: Iterable[str], late_units: Iterable[int]) -> None:
    """Make the set of cancelled ids in Redis hold these, and no others of their kinds. Online ids are left alone."""
    wanted = {f"run:{run_id}" for run_id in run_ids} | {chunks.request_id(unit) for unit in late_units}
    members = cast("set[str]", client.smembers(CANCELLED_KEY))
    present = {member for member in members if member.startswith("run:") or chunks.unit_id(member) is not None}
    if new := wanted - present:
        client.sadd(CANCELLED_KEY, *new)
    if old := present - wanted:
        client.srem(CANCELLED_KEY, *old)
