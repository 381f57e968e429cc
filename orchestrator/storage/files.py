"""Uploaded and produced files: a row in the database, the bytes in the data directory under the file's id."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sqlmodel import Session, col, select

from orchestrator.settings import Settings
from orchestrator.storage.tables import FileRow

ID = re.compile(r"file-[0-9a-f]{24}")
CHUNK_BYTES = 2**20
PART = ".part"
STALE_S = 86400.0
"""A part that nobody wrote to for so long was left behind by a process that was killed."""
DISK_RESERVE_BYTES = 64 * 2**20
"""Left free on the disk: the database and the broker write there, too."""


class UnknownFile(LookupError):
    """There is no file of this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id[:80]!r}; GET /v1/files lists them")


class FileTooLarge(ValueError):
    """The upload is larger than the service takes."""


class DiskFull(OSError):
    """There is no room for the file."""


def folder(settings: Settings) -> Path:
    return settings.data_dir / "files"


def write(settings: Settings, source: BinaryIO, *, max_bytes: int | None = None) -> tuple[str, int]:
    """Bring the bytes to disk under a new id, wholly or not at all. Returns (id, bytes).

    `max_bytes`: in place of the settings' own bound. Raises `FileTooLarge` or `DiskFull`. The row is `add`ed
    afterwards: bytes without a row are invisible.
    """
    target = folder(settings)
    target.mkdir(parents=True, exist_ok=True)
    file_id = new_id()
    partial = target / f".{file_id}{PART}"
    try:
        size = _copy(source, partial, settings.max_file_bytes if max_bytes is None else max_bytes)
        partial.replace(target / file_id)
        _sync(target)
    finally:
        partial.unlink(missing_ok=True)
    return file_id, size


class Partial:
    """A file that is being written: under a hidden name until `keep`, so that nobody ever sees half of it."""

    def __init__(self, settings: Settings, file_id: str) -> None:
        self._target = folder(settings) / file_id
        self._target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: should a second process believe that the file is its to write, neither spoils the other's.
        self._path = self._target.with_name(f".{file_id}.{secrets.token_hex(4)}{PART}")
        self._sink = self._path.open("wb")
        self.size = 0

    def write(self, block: bytes) -> None:
        """Raises `DiskFull` before the disk is."""
        _check_room(self._path.parent)
        self._sink.write(block)
        self.size += len(block)

    def keep(self) -> None:
        """Bring it to disk and give it its name. The row is `add`ed afterwards."""
        self._sink.flush()
        os.fsync(self._sink.fileno())
        self._sink.close()
        self._path.replace(self._target)
        _sync(self._target.parent)

    def discard(self) -> None:
        """Leave nothing of it behind. On a full disk what is still in the buffer cannot be written, nor need it be."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._sink.close()


def _check_room(place: Path) -> None:
    status = os.statvfs(place)
    if status.f_bavail * status.f_frsize < DISK_RESERVE_BYTES:
        raise DiskFull(f"the disk of {place} is full; delete files or move MUSTER_DATA_DIR")


def _sync(place: Path) -> None:
    """A rename is on disk once its folder is."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(settings: Settings) -> int:
    """Delete the parts that killed processes left behind; returns how many."""
    oldest_s = time.time() - STALE_S
    stale = [part for part in folder(settings).glob(f".*{PART}") if part.stat().st_mtime < oldest_s]
    for part in stale:
        part.unlink(missing_ok=True)
    return len(stale)


def new_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def _copy(source: BinaryIO, partial: Path, max_bytes: int) -> int:
    size = 0
    with partial.open("wb") as sink:
        while block := source.read(CHUNK_BYTES):
            size += len(block)
            if size > max_bytes:
                raise FileTooLarge(f"the file is larger than the {max_bytes} bytes that one of its purpose may have")
            _check_room(partial.parent)
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    return size


def add(session: Session, *, file_id: str, filename: str, purpose: str, size: int) -> FileRow:
    """Make the written bytes a file."""
    row = FileRow(id=file_id, filename=filename, purpose=purpose, bytes=size)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, file_id: str) -> FileRow:
    """Raises `UnknownFile`."""
    row = session.get(FileRow, file_id) if ID.fullmatch(file_id) else None
    if row is None:
        raise UnknownFile(file_id)
    return row


def listed(session: Session, *, purpose: str | None = None) -> list[FileRow]:
    """Every file, newest first."""
    query = select(FileRow).order_by(col(FileRow.created_at).desc(), FileRow.id)
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    return list(session.exec(query))


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


def delete(session: Session, settings: Settings, file_id: str) -> None:
    """Delete the row, then the bytes. Raises `UnknownFile`."""
    session.delete(get(session, file_id))
    session.flush()
    (folder(settings) / file_id).unlink(missing_ok=True)
