"""Uploaded and produced files: a row in the database, the bytes in the data directory under the file's id.

Bytes come first and rows last; at the end the row goes first and the bytes last. So every row has its bytes, and bytes
without a row are what somebody who was killed left behind: `sweeping` finds them.
"""

import datetime as dt
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.settings import Settings
from orchestrator.storage import owners
from orchestrator.storage.tables import FileRow

ID = re.compile(r"file-[0-9a-f]{24}")
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""OpenAI's, of uploads; what a batch writes is `batch_output`."""
EXPIRES_MIN_S, EXPIRES_MAX_S = 3600, 30 * 86400
LIST_MAX = 10_000


class UnknownFile(LookupError):
    """There is no file of this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id[:80]!r}; GET /v1/files lists them")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of the list of files."""

    rows: list[FileRow]
    has_more: bool


def folder(settings: Settings) -> Path:
    return settings.data_dir / "files"


def new_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def add(
    session: Session,
    *,
    file_id: str,
    filename: str,
    purpose: str,
    size: int,
    expires_after_s: int | None = None,
    owner: str | None = None,
) -> FileRow:
    """Make the written bytes a file. `expires_after_s`: how long it stays; None: until it is deleted.

    `owner`: whose it is; None: whose session it is.
    """
    row = FileRow(id=file_id, filename=filename, purpose=purpose, bytes=size, owner=owner or owners.of(session))
    session.add(row)
    session.flush()
    session.refresh(row)
    if expires_after_s is not None:
        row.expires_at = row.created_at + dt.timedelta(seconds=expires_after_s)
        session.flush()
    return row


def get(session: Session, file_id: str) -> FileRow:
    """Raises `UnknownFile`."""
    row = session.get(FileRow, file_id) if ID.fullmatch(file_id) else None
    if row is None:
        raise UnknownFile(file_id)
    return row


def listed(
    session: Session,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = LIST_MAX,
    order: Literal["asc", "desc"] = "desc",
) -> Page:
    """Files by their age, newest first or last, those behind the file `after`. Raises `UnknownFile` for that."""
    query, place = select(FileRow), sa.tuple_(col(FileRow.created_at), col(FileRow.id))
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    if after is not None:
        last = get(session, after)
        here = sa.tuple_(sa.literal(last.created_at), last.id)
        query = query.where(place < here if order == "desc" else place > here)
    by = (col(FileRow.created_at), col(FileRow.id))
    rows = session.exec(query.order_by(*(each.desc() if order == "desc" else each for each in by)).limit(limit + 1))
    found = list(rows)
    return Page(rows=found[:limit], has_more=len(found) > limit)


def path(settings: Settings, file_id: str) -> Path:
    """Where the bytes are. Raises `UnknownFile` for what is no id, or whose bytes are gone."""
    place = folder(settings) / file_id
    if not ID.fullmatch(file_id) or not place.is_file():
        raise UnknownFile(file_id)
    return place


def lines(settings: Settings, file_id: str) -> Iterator[str]:
    """The file's lines as text. Raises `UnknownFile`, `UnicodeDecodeError`."""
    with path(settings, file_id).open(encoding="utf-8-sig") as source:
        yield from source


def delete(session: Session, file_id: str) -> None:
    """Delete the row; once that is committed, `remove` the bytes. Raises `UnknownFile`."""
    session.delete(get(session, file_id))
    session.flush()


def remove(settings: Settings, file_id: str) -> None:
    """Delete the bytes of a file that has no row (any more)."""
    (folder(settings) / file_id).unlink(missing_ok=True)
