"""Deleting files nobody wants any more: those that have expired, and what killed processes left on the disk."""

import time
from pathlib import Path

import sqlalchemy as sa
import structlog

from orchestrator.settings import Settings
from orchestrator.storage import database, files, partial

ROWLESS_S, ROWLESS_MOST_S = 3600.0, 7200.0
"""Bytes get their row within seconds: those without one for so long will have none. Older ones are left alone: they may
belong to another database, or to a backup that is about to be restored."""
PART_S = 86400.0
"""A part that nobody wrote to for so long was left behind by a process that was killed."""

# The input file of a batch that has not ended stays, although it may be read to its end by now.
_EXPIRED = sa.text(
    """
    DELETE FROM file WHERE expires_at <= now() AND NOT EXISTS (
        SELECT FROM batch JOIN run ON run.id = batch.run_id
        WHERE batch.input_file_id = file.id AND run.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
    ) RETURNING id
    """
)
_KNOWN = sa.text("SELECT id FROM file WHERE id = ANY(CAST(:ids AS text[]))")

log = structlog.get_logger()


def sweep(engine: sa.Engine, settings: Settings) -> int:
    """One round; returns how many files it deleted. Raises `OSError` and what the database raises."""
    with database.session(engine) as session:
        expired = list(session.scalars(_EXPIRED))
    for file_id in expired:
        files.remove(settings, file_id)
    left = [*_rowless(engine, settings), *_old(settings, f".*{partial.SUFFIX}", PART_S)]
    for place in left:
        place.unlink(missing_ok=True)
    if expired or left:
        log.info("files swept", expired=len(expired), left_behind=len(left))
    return len(expired) + len(left)


def _rowless(engine: sa.Engine, settings: Settings) -> list[Path]:
    """Files that an upload, or a batch's end, named but did not live to tell the database of; or deleted by half."""
    places = _old(settings, "file-*", ROWLESS_S, ROWLESS_MOST_S)
    old = {place.name: place for place in places if files.ID.fullmatch(place.name)}
    if not old:
        return []
    with database.session(engine) as session:
        known = set(session.scalars(_KNOWN, params={"ids": list(old)}))
    return [place for name, place in old.items() if name not in known]


def _old(settings: Settings, pattern: str, age_s: float, most_s: float = float("inf")) -> list[Path]:
    """Of the data directory's files those that were last written to so long ago, and no longer than `most_s`."""
    now_s = time.time()
    found = []
    for place in files.folder(settings).glob(pattern):
        try:
            is_old = age_s < now_s - place.stat().st_mtime < most_s
        except FileNotFoundError:  # it was given its name, or deleted, just now
            continue
        if is_old:
            found.append(place)
    return found
