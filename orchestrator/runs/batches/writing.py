"""Writing a batch's files once its lines have ended: a slice a turn, and the files appear whole or not at all.

Both are written under hidden names, brought to disk, renamed, and only then become rows, in the one transaction
that ends the batch. Killed before that, they are written anew, under the same ids.
"""

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlmodel import Session

from orchestrator.runs import report, totals
from orchestrator.runs.batches import answer
from orchestrator.runs.batches.answer import Ended
from orchestrator.runs.pinned import Pinned
from orchestrator.runs.staging.work import units_by_instance
from orchestrator.settings import Settings
from orchestrator.storage import database, files, stored
from orchestrator.storage.partial import Partial
from orchestrator.storage.tables import BatchRow, RunRow

SLICE_LINES = 200

_LINES = sa.text(
    """
    SELECT id, position, custom_id, question, query, decision, fused, error,
        extract(epoch FROM ended_at)::bigint AS ended_s
    FROM instance WHERE run_id = :run AND position > :after ORDER BY position LIMIT :count
    """
)
_BEGIN = sa.text("UPDATE run SET status = 'finalizing' WHERE id = :run AND status = 'in_progress'")
_BEGUN = sa.text("UPDATE batch SET finalizing_at = coalesce(finalizing_at, now()) WHERE run_id = :run")
_NAME = sa.text(
    "UPDATE batch SET output_file_id = coalesce(output_file_id, :output),"
    " error_file_id = coalesce(error_file_id, :error) WHERE run_id = :run RETURNING output_file_id, error_file_id"
)
_NAMED = sa.text("UPDATE batch SET output_file_id = :output, error_file_id = :error WHERE run_id = :run")
_END = sa.text(
    "UPDATE run SET status = :status, totals = CAST(:totals AS jsonb), report = CAST(:report AS jsonb),"
    " ended_at = now() WHERE id = :run AND status IN ('finalizing', 'cancelling') RETURNING id"
)

_GIVE_UP = sa.text(
    "UPDATE run SET status = 'failed', errors = CAST(:errors AS jsonb), ended_at = now()"
    " WHERE id = :run AND status IN ('finalizing', 'cancelling') RETURNING id"
)

log = structlog.get_logger()


@dataclass(kw_only=True)
class _Files:
    """The two files of a batch on their way."""

    output_id: str
    error_id: str
    output: Partial
    errors: Partial
    after: int = -1
    """The position of the last line that was written."""

    def discard(self) -> None:
        self.output.discard()
        self.errors.discard()


class Writer:
    """Writes the files of any number of batches, a slice of each in turn. By the stager's thread alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._under_way: dict[str, _Files] = {}

    def close(self) -> None:
        """Leave nothing half written behind."""
        while self._under_way:
            self._under_way.popitem()[1].discard()

    def begin(self, session: Session, run_id: str) -> None:
        """All lines have ended: the batch is finalized from here on."""
        session.execute(_BEGIN, {"run": run_id})
        session.execute(_BEGUN, {"run": run_id})

    def advance(self, session: Session, run: RunRow) -> bool:
        """Write the next slice; after the last line the batch ends: True. `OSError`: the disk does not take it.

        Whatever is raised, the next call begins with the first line.
        """
        under_way = self._under_way.get(run.id) or self._open(session, run.id)
        try:
            if self._write(session, run, under_way):
                return False
            self._end(session, run, under_way)
            del self._under_way[run.id]
            return True
        except BaseException:
            self._under_way.pop(run.id, None)
            under_way.discard()
            raise

    def _open(self, session: Session, run_id: str) -> _Files:
        names = session.execute(_NAME, {"run": run_id, "output": files.new_id(), "error": files.new_id()}).one()
        opened = _Files(
            output_id=names.output_file_id,
            error_id=names.error_file_id,
            output=Partial(self._settings, names.output_file_id),
            errors=Partial(self._settings, names.error_file_id),
        )
        self._under_way[run_id] = opened
        return opened

    def _write(self, session: Session, run: RunRow, under_way: _Files) -> bool:
        """The next lines into their files. False if there are none."""
        rows = session.execute(_LINES, {"run": run.id, "after": under_way.after, "count": SLICE_LINES}).all()
        if not rows:
            return False
        pinned = Pinned.model_validate(run.pinned)
        units = units_by_instance(session, [row.id for row in rows])
        for row in rows:
            written = answer.of(_ended(row, units.get(row.id, [])), batch_id=run.id, pinned=pinned)
            target = under_way.errors if written.is_error else under_way.output
            target.write(json.dumps(written.fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        under_way.after = rows[-1].position
        return True

    def _end(self, session: Session, run: RunRow, under_way: _Files) -> None:
        batch = session.get_one(BatchRow, run.id)
        kept: dict[str, str | None] = {"output": None, "error": None}
        for kind, file_id, partial in (
            ("output", under_way.output_id, under_way.output),
            ("error", under_way.error_id, under_way.errors),
        ):
            if not partial.size:
                partial.discard()
                continue
            partial.keep()
            kept[kind] = file_id
            name = f"{run.id}_{kind}.jsonl"
            files.add(
                session,
                file_id=file_id,
                filename=name,
                purpose="batch_output",
                size=partial.size,
                expires_after_s=batch.output_expires_after_s,
                owner=run.owner,
            )
        status = _status(run, batch)
        session.execute(_NAMED, {"run": run.id, **kept})
        session.execute(
            _END,
            {
                "run": run.id,
                "status": status,
                "totals": database.dump_json(totals.of(session, run.id)),
                "report": database.dump_json(report.build(session, run.id)),
            },
        ).one()  # none: another orchestrator ended it, and this transaction must not add its files
        log.info("batch ended", run=run.id, status=status, **kept)


def give_up(session: Session, run_id: str, reason: str) -> None:
    """End a batch whose lines have ended but cannot be written as files: it has failed, and has none."""
    message = f"its files cannot be written ({reason}); its lines are at /v1/benchmarks/{run_id}/results"
    errors = [{"code": "internal_error", "message": message, "line": None, "param": None}]
    if session.execute(_GIVE_UP, {"run": run_id, "errors": database.dump_json(errors)}).first():
        session.execute(_NAMED, {"run": run_id, "output": None, "error": None})


def _status(run: RunRow, batch: BatchRow) -> str:
    """What it ends as. One that has errors although it began was given up by us."""
    if run.status == "cancelling":
        return "failed" if run.errors else "cancelled"
    return "expired" if batch.has_expired else "completed"


def _ended(row: Any, units: list[Any]) -> Ended:
    question = stored.question_of(row.question)
    return Ended(
        id=row.id,
        custom_id=row.custom_id,
        query=stored.query_of(row.query, question),
        decision=row.decision,
        fused=row.fused,
        error=row.error,
        ended_s=row.ended_s,
        units=units,
    )
