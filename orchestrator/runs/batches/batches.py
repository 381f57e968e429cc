"""Batches: submitting them, reading them, calling them off."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.pool.pool import Pool
from orchestrator.runs import open_lines, pinning, runs
from orchestrator.runs.batches import line, window
from orchestrator.runs.pinning import RunRefused
from orchestrator.runs.runs import Counts
from orchestrator.settings import Settings
from orchestrator.storage import files
from orchestrator.storage.tables import BatchRow, RunRow

KIND = "batch"
PURPOSE = "batch"
METADATA_MAX, KEY_CHARS_MAX, VALUE_CHARS_MAX = 16, 64, 512


class CannotCancel(ValueError):
    """The batch has ended, or is about to."""

    def __init__(self, run: RunRow) -> None:
        super().__init__(f"Cannot cancel a batch with status '{run.status}'.")


@dataclass(frozen=True, kw_only=True)
class BatchState:
    """A batch as it is now."""

    run: RunRow
    batch: BatchRow
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of the list of batches."""

    states: list[BatchState]
    has_more: bool


def submit(
    session: Session,
    *,
    settings: Settings,
    pool: Pool,
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str] | None = None,
    output_expires_after_s: int | None = None,
    idempotency_key: str | None = None,
) -> BatchState:
    """Write a batch; its lines are read and checked by the stager.

    `pool`: the live experts, pinned here. `output_expires_after_s`: how long its files stay. The same
    `idempotency_key` gives the batch it gave before. Raises `RunRefused`, `NoExperts`, `runs.KeyTaken`,
    `open_lines.TooManyOpenLines` and `files.UnknownFile`.
    """
    asked: list[object] = [KIND, input_file_id, endpoint, completion_window, dict(metadata or {})]
    if output_expires_after_s is not None:  # so that a key given before this was known still fits its request
        asked.append(output_expires_after_s)
    digest = runs.digest(*asked)
    if (present := runs.submitted(session, idempotency_key, digest)) is not None:
        return state(session, present.id)
    length_s = _check(endpoint, completion_window, metadata)
    file = files.get(session, input_file_id)
    if file.purpose != PURPOSE:
        raise RunRefused(f"the file {input_file_id} was not uploaded with purpose 'batch'", param="input_file_id")
    pinned = pinning.for_batch(settings=settings, pool=pool)
    open_lines.refuse_if_too_many(session, settings, more=open_lines.lines_at_most(file.bytes))
    run = runs.insert(
        session, kind=KIND, name="", pinned=pinned, status="validating", key=idempotency_key, digest=digest
    )
    if run is None:  # another request with this key was first
        present = runs.submitted(session, idempotency_key, digest)
        assert present is not None
        return state(session, present.id)
    batch = BatchRow(
        run_id=run.id,
        input_file_id=input_file_id,
        endpoint=endpoint,
        completion_window=completion_window,
        labels=dict(metadata) if metadata is not None else None,
        output_expires_after_s=output_expires_after_s,
        expires_at=run.created_at + dt.timedelta(seconds=length_s),
    )
    session.add(batch)
    session.flush()
    return BatchState(run=run, batch=batch, counts=Counts(total=0, done=0, failed=0))


def state(session: Session, batch_id: str) -> BatchState:
    """Raises `runs.UnknownRun`; for a run of another kind, too."""
    run = runs.get(session, batch_id)
    if run.kind != KIND:
        raise runs.UnknownRun(batch_id)
    # Once it has ended its counts are kept: nobody need count fifty thousand lines for a list.
    counts = Counts(**run.report["lines"]) if run.report is not None else runs.counts(session, batch_id)
    return BatchState(run=run, batch=session.get_one(BatchRow, batch_id), counts=counts)


def listed(session: Session, *, after: str | None, limit: int) -> Page:
    """Batches, newest first, those behind the batch `after`. Raises `runs.UnknownRun` for an unknown `after`."""
    query = select(RunRow).where(RunRow.kind == KIND)
    if after is not None:
        last = state(session, after).run
        query = query.where(
            sa.tuple_(col(RunRow.created_at), col(RunRow.id)) < sa.tuple_(sa.literal(last.created_at), last.id)
        )
    rows = session.exec(query.order_by(col(RunRow.created_at).desc(), col(RunRow.id).desc()).limit(limit + 1)).all()
    return Page(states=[state(session, row.id) for row in rows[:limit]], has_more=len(rows) > limit)


def cancel(session: Session, batch_id: str) -> BatchState:
    """Ask for it to end, keeping what is done. Raises `runs.UnknownRun` and `CannotCancel`."""
    state(session, batch_id)
    run = runs.cancel(session, batch_id)
    if run.status != "cancelling":
        raise CannotCancel(run)
    session.expire_all()
    return state(session, batch_id)


def _check(endpoint: str, completion_window: str, metadata: Mapping[str, str] | None) -> int:
    """The window in seconds. Raises `RunRefused`."""
    if endpoint != line.ENDPOINT:
        raise RunRefused(f"the endpoint must be {line.ENDPOINT!r}, not {endpoint[:80]!r}", param="endpoint")
    length_s = window.seconds(completion_window)
    if length_s is None:
        raise RunRefused(
            "completion_window must be '24h', or another whole number of s, m, h or d up to 30 days",
            param="completion_window",
        )
    labels = metadata or {}
    if len(labels) > METADATA_MAX:
        raise RunRefused(f"metadata may hold {METADATA_MAX} keys, not {len(labels)}", param="metadata")
    for key, value in labels.items():
        if len(key) > KEY_CHARS_MAX or len(value) > VALUE_CHARS_MAX:
            raise RunRefused(
                f"metadata keys have at most {KEY_CHARS_MAX} characters, values {VALUE_CHARS_MAX}: see {key[:80]!r}",
                param="metadata",
            )
    return length_s


def timestamps(state: BatchState) -> dict[str, Any]:
    """OpenAI's times of a batch, in Unix seconds; None for what has not happened."""
    run, batch = state.run, state.batch

    def ended(*statuses: str) -> int | None:
        return _unix(run.ended_at) if run.status in statuses else None

    return {
        "created_at": _unix(run.created_at),
        "in_progress_at": _unix(batch.in_progress_at),
        "expires_at": _unix(batch.expires_at),
        "finalizing_at": _unix(batch.finalizing_at),
        "completed_at": ended("completed"),
        "failed_at": ended("failed"),
        "expired_at": ended("expired"),
        "cancelling_at": _unix(batch.cancelling_at),
        "cancelled_at": ended("cancelled"),
    }


def usage(state: BatchState) -> dict[str, Any] | None:
    """OpenAI's usage of a batch that has ended: the tokens of all that was answered. None before, or without lines."""
    units = [each for each in state.run.totals.get("units", ()) if each["state"] == "done"]
    if state.run.ended_at is None or "units" not in state.run.totals:
        return None
    read = sum(each["prompt_tokens"] for each in units)
    written = sum(each["completion_tokens"] for each in units)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _unix(at: dt.datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
