"""Ending runs that are cancelled, expired or cannot go on, and telling workers which.

Workers are told at once; then the lines are ended, a slice a transaction. Killed in between, it goes on there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import redis
import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.dispatch import chunks
from orchestrator.runs import totals
from orchestrator.storage import database
from workers.messages import CANCELLED_KEY

ANNOUNCED_S = 600
"""A cancelled run stays in the set for so long: by then no worker holds a chunk of it."""

CANCELLED, EXPIRED = "cancelled", "expired"
"""Errors of lines that were called off, and of lines whose batch's window had passed."""

SLICE_LINES = 2000
"""Lines ended in one transaction: a fraction of a second, so that leases are renewed in between."""

# The smallest stage, and not EXISTS: as in `finishing`.
_EXPIRING = sa.text(
    """
    UPDATE run SET status = 'finalizing' WHERE status = 'in_progress'
      AND id IN (SELECT run_id FROM batch WHERE expires_at <= now())
      AND (SELECT min(stage) FROM instance WHERE run_id = run.id AND stage <> 'done') IS NOT NULL
    RETURNING id
    """
)
_FINALIZING = sa.text("UPDATE batch SET finalizing_at = now() WHERE run_id = ANY(:runs)")
_RECENT = sa.text(
    "SELECT id FROM run WHERE status IN ('cancelling', 'finalizing', 'cancelled', 'expired', 'failed')"
    " AND (ended_at IS NULL OR ended_at > now() - make_interval(secs => :announced_s))"
)
# A batch that never began is the stager's to end: two who lock the same lines, each in its own order, may deadlock.
_CALLED_OFF = sa.text(
    """
    SELECT run.id, run.kind, run.status, run.errors FROM run LEFT JOIN batch ON batch.run_id = run.id
    WHERE run.status IN ('cancelling', 'finalizing') AND (run.kind <> 'batch' OR batch.in_progress_at IS NOT NULL)
    ORDER BY run.created_at, run.id
    """
)
_OPEN_LINES = sa.text(
    "SELECT id FROM instance WHERE run_id = :run AND stage <> 'done' ORDER BY stage LIMIT :count FOR UPDATE"
)
_END_INSTANCES = sa.text(
    "UPDATE instance SET stage = 'done', ready = false, error = :why, ended_at = now()"
    " WHERE id = ANY(CAST(:ids AS bigint[]))"
)
_END_UNITS = sa.text(
    """
    UPDATE unit SET state = 'failed', ended_at = now(),
        completion = jsonb_build_object('finish_reason', 'abort', 'error', CAST(:why AS text))
    WHERE instance_id = ANY(CAST(:ids AS bigint[])) AND state IN ('pending', 'sent')
    """
)
_END_CHUNKS = sa.text("UPDATE chunk SET state = 'ended' WHERE run_id = :run AND state = 'sent'")
_EXPIRED = sa.text("UPDATE batch SET has_expired = true WHERE run_id = :run")
_END_RUN = sa.text("UPDATE run SET status = :status, totals = CAST(:totals AS jsonb), ended_at = now() WHERE id = :run")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Lines of one run that were ended together."""

    run_id: str
    is_last: bool


def expire_batches(session: Session) -> list[str]:
    """Call off every batch whose window has passed before all of its lines had ended. Returns those batches."""
    expired = list(session.scalars(_EXPIRING).all())
    if expired:
        session.execute(_FINALIZING, {"runs": expired})
    return expired


def end_lines(session: Session) -> Slice | None:
    """End some lines of a run that is called off, keeping those that are done. None if there is nothing to end.

    With its last line a run has ended, too; a batch has once its files are written.
    """
    for run in session.execute(_CALLED_OFF).all():
        ids = session.scalars(_OPEN_LINES, params={"run": run.id, "count": SLICE_LINES}).all()
        if not ids and run.kind == "batch":
            continue  # its files are being written
        # One that has errors was given up by us: it failed.
        why = run.errors[0]["message"] if run.errors else EXPIRED if run.status == "finalizing" else CANCELLED
        session.execute(_END_CHUNKS, {"run": run.id})
        session.execute(_END_INSTANCES, {"ids": ids, "why": why})
        session.execute(_END_UNITS, {"ids": ids, "why": why})
        is_last = len(ids) < SLICE_LINES
        if run.status == "finalizing":
            session.execute(_EXPIRED, {"run": run.id})
        elif is_last and run.kind != "batch":
            status, kept = "failed" if run.errors else "cancelled", database.dump_json(totals.of(session, run.id))
            session.execute(_END_RUN, {"run": run.id, "status": status, "totals": kept})
        return Slice(run_id=run.id, is_last=is_last)
    return None


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
