"""Reading a batch's input file into instances, a slice a transaction. Killed at any point, it goes on there.

All lines are read before the first is answered: a batch with a wrong line fails as a whole, with every complaint
(up to a bound) by its line number, and nothing was computed for it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from orchestrator.online.chat_request import POOL
from orchestrator.runs.batches import line
from orchestrator.runs.batches.line import Complaint, Line
from orchestrator.runs.pinning import LINES_MAX
from orchestrator.settings import Settings
from orchestrator.storage import database, files, stored
from orchestrator.storage.tables import BatchRow, RunRow

SLICE_BYTES = 4 * 2**20
SLICE_LINES = 1000
SLICE_S = 0.3
"""Other runs wait meanwhile."""
COMPLAINTS_MAX = 100
"""Listed of one batch; reading ends there."""
BOM = b"\xef\xbb\xbf"

_PRESENT = sa.text("SELECT custom_id FROM instance WHERE run_id = :run AND custom_id = ANY(CAST(:ids AS text[]))")
_BEGIN = sa.text(
    "UPDATE run SET status = 'in_progress', pinned = jsonb_set(pinned, '{lines}', to_jsonb(CAST(:lines AS int)))"
    " WHERE id = :run"
)
_BEGUN = sa.text("UPDATE batch SET in_progress_at = now() WHERE run_id = :run")
_COUNT = sa.text("SELECT count(*) FROM instance WHERE run_id = :run")
_FORGET = sa.text("DELETE FROM instance WHERE run_id = :run")
_FAIL = sa.text("UPDATE run SET status = 'failed', ended_at = now() WHERE id = :run")

log = structlog.get_logger()


@dataclass(kw_only=True)
class _Slice:
    """What was read in one turn."""

    lines: list[tuple[int, Line]] = field(default_factory=list)
    """By their numbers."""
    read_bytes: int
    read_lines: int
    is_end: bool = False


def advance(session: Session, settings: Settings, run: RunRow, pool: line.Pool) -> None:
    """Read and check the next slice; at the end of the file the batch is begun, or fails."""
    status = session.scalar(select(RunRow.status).where(RunRow.id == run.id).with_for_update(key_share=True))
    if status != "validating":
        return  # it was cancelled meanwhile
    batch = session.get_one(BatchRow, run.id)
    try:
        read = _read(settings, batch, pool)
    except (files.UnknownFile, FileNotFoundError):
        where = "is gone, or the API keeps its files elsewhere: it has to share MUSTER_DATA_DIR with the orchestrator"
        message = f"The file {batch.input_file_id} {where}."
        gone = Complaint(code="file_not_found", message=message, line=None)
        _end(session, run.id, [*run.errors, gone.as_json()])
        return
    complaints = _insert(session, run.id, read.lines)
    errors = [*run.errors, *(complaint.as_json() for complaint in complaints)][:COMPLAINTS_MAX]
    if errors != run.errors:
        session.execute(sa.update(RunRow).where(col(RunRow.id) == run.id).values(errors=errors))
    batch.read_bytes, batch.read_lines = read.read_bytes, read.read_lines
    batch.model = _model(batch.model, read.lines)
    session.add(batch)
    session.flush()
    count = session.execute(_COUNT, {"run": run.id}).scalar_one()
    if count > LINES_MAX:
        message = f"The file has more than the {LINES_MAX} requests a batch may have."
        _end(session, run.id, [*errors, Complaint(code="too_many_tasks", message=message, line=None).as_json()])
    elif read.is_end and not count and not errors:
        message = "The file is empty: it needs a JSON object per line."
        _end(session, run.id, [Complaint(code="empty_file", message=message, line=None).as_json()])
    elif errors and (read.is_end or len(errors) >= COMPLAINTS_MAX):
        _end(session, run.id, errors)
    elif read.is_end:
        session.execute(_BEGIN, {"run": run.id, "lines": count})
        session.execute(_BEGUN, {"run": run.id})
        log.info("batch begun", run=run.id, lines=count)


def drop(session: Session, run_id: str) -> None:
    """Forget the lines of a batch that never began."""
    session.execute(_FORGET, {"run": run_id})


def _end(session: Session, run_id: str, errors: Sequence[dict[str, Any]]) -> None:
    """The batch fails, and with it all of its lines."""
    drop(session, run_id)
    session.execute(sa.update(RunRow).where(col(RunRow.id) == run_id).values(errors=list(errors)))
    session.execute(_FAIL, {"run": run_id})
    log.info("batch refused", run=run_id, complaints=len(errors))


def _model(known: str | None, lines: Sequence[tuple[int, Line]]) -> str | None:
    """The model that all lines name, these and those before; "" for several."""
    named = {each.query.expert or POOL for _, each in lines if each.query is not None}
    named |= set() if known is None else {known}
    return next(iter(named), None) if len(named) <= 1 else ""


def _read(settings: Settings, batch: BatchRow, pool: line.Pool) -> _Slice:
    """The next lines of the file, a few megabytes of them at most."""
    read = _Slice(read_bytes=batch.read_bytes, read_lines=batch.read_lines)
    until = time.monotonic() + SLICE_S
    limit = settings.max_body_bytes
    with files.path(settings, batch.input_file_id).open("rb") as source:
        source.seek(read.read_bytes)
        while len(read.lines) < SLICE_LINES and read.read_bytes - batch.read_bytes < SLICE_BYTES:
            raw = source.readline(limit + 1)
            if not raw:
                read.is_end = True
                break
            read.read_lines += 1
            number = read.read_lines
            if len(raw) > limit:
                while raw and not raw.endswith(b"\n"):
                    raw = source.readline(limit)
                read.lines.append((number, Line(custom_id=None, query=None, complaint=line.too_long(number, limit))))
            elif text := (raw.removeprefix(BOM) if number == 1 else raw).strip():
                read.lines.append((number, line.read(text, number, pool)))
            read.read_bytes = source.tell()
            if time.monotonic() > until:
                break
    return read


def _insert(session: Session, run_id: str, lines: Sequence[tuple[int, Line]]) -> list[Complaint]:
    """Write the lines as instances, and return the complaints about them and their custom ids.

    A wrong line with a custom id is written, too: a later one with the same id is still found out.
    """
    ids = [each.custom_id for _, each in lines if each.custom_id is not None]
    seen = set(session.scalars(_PRESENT, params={"run": run_id, "ids": ids}))
    complaints, rows = [], []
    for number, each in lines:
        if each.custom_id is not None and each.custom_id in seen:
            complaints.append(line.duplicate(each.custom_id, number))
            continue
        if each.complaint is not None:
            complaints.append(each.complaint)
        if each.custom_id is not None:
            seen.add(each.custom_id)
            rows.append(_row(run_id, number, each))
    database.insert_rows(session, "instance", rows)
    return complaints


def _row(run_id: str, number: int, read: Line) -> dict[str, Any]:
    query = read.query
    return {
        "run_id": run_id,
        "position": number - 1,
        "custom_id": read.custom_id,
        "question": {} if query is None else stored.question_json(query.question),
        "query": None if query is None else stored.query_json(query),
        "stage": "annotate",
        "round": 0,
    }
