"""How much work may lie open: what is submitted beyond that has to wait at its client."""

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.runs.pinning import LINES_MAX
from orchestrator.settings import Settings

LINE_BYTES_MIN = 120
"""Of a request in a batch's file: `{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": …`."""
RETRY_AFTER_S = 60
"""Runs take minutes to hours: asking more often tells nobody anything."""

# From the runs' own rows: lines are counted when a run is submitted, or its file was read.
_OPEN = sa.text(
    """
    SELECT run.status, (run.pinned->>'lines')::int AS lines, coalesce(file.bytes, 0) AS bytes
    FROM run LEFT JOIN batch ON batch.run_id = run.id LEFT JOIN file ON file.id = batch.input_file_id
    WHERE run.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
    """
)


class TooManyOpenLines(RuntimeError):
    """As much work lies open as the service takes."""

    def __init__(self, count: int, more: int, most: int) -> None:
        super().__init__(
            f"up to {count} lines of batches and benchmarks are open already, and with up to {more} more they would "
            f"be over the {most} allowed (MUSTER_OPEN_LINES); wait until some have ended, or cancel one, and submit "
            "again"
        )


def refuse_if_too_many(session: Session, settings: Settings, *, more: int) -> None:
    """Raise `TooManyOpenLines` where `more` lines would pass the bound; where nothing is open, any number may come.

    All lines of a run count until it has ended. Two submissions at the same moment may both find room for the last.
    """
    count = sum(lines_at_most(row.bytes) if row.status == "validating" else row.lines for row in session.execute(_OPEN))
    if count and count + more > settings.open_lines:
        raise TooManyOpenLines(count, more, settings.open_lines)


def lines_at_most(size: int) -> int:
    """How many requests a batch's file of so many bytes may hold, before it is read."""
    return min(LINES_MAX, size // LINE_BYTES_MIN + 1)
