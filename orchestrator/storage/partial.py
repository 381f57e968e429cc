"""Files that are being written: under a hidden name until they are whole, so that nobody ever sees half of one."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from orchestrator.settings import Settings
from orchestrator.storage import files

SUFFIX = ".part"
DISK_RESERVE_BYTES = 64 * 2**20
"""Left free on the disk: the database and the broker write there, too."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the quota, or what the process may write."""


class DiskFull(OSError):
    """There is no room for the file."""

    def __init__(self, place: Path) -> None:
        super().__init__(f"the disk of {place} is full; delete files or move MUSTER_DATA_DIR")


class Partial:
    """One file on its way. Parts that an earlier try at the same file left behind go when the next one begins."""

    def __init__(self, settings: Settings, file_id: str) -> None:
        """Raises `DiskFull`."""
        self._target = files.folder(settings) / file_id
        with _telling(self._target.parent):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            for left in self._target.parent.glob(f".{file_id}.*{SUFFIX}"):
                left.unlink(missing_ok=True)
            # A name of its own: should a second process believe that the file is its to write, it spoils no other's.
            self._path = self._target.with_name(f".{file_id}.{secrets.token_hex(4)}{SUFFIX}")
            self._sink = self._path.open("wb")
        self.size = 0

    def write(self, block: bytes) -> None:
        """Raises `DiskFull`, if possible before the disk is."""
        place = self._target.parent
        status = os.statvfs(place)
        if status.f_bavail * status.f_frsize < DISK_RESERVE_BYTES:
            raise DiskFull(place)
        with _telling(place):
            self._sink.write(block)
        self.size += len(block)

    def keep(self) -> None:
        """Bring it to disk and give it its name. The row is `files.add`ed afterwards. Raises `DiskFull`."""
        with _telling(self._target.parent):
            self._sink.flush()
            os.utime(self._sink.fileno())  # who sweeps counts from here
            os.fsync(self._sink.fileno())
            self._sink.close()
            self._path.replace(self._target)
            _sync(self._target.parent)

    def discard(self) -> None:
        """Leave nothing of it behind. On a full disk what is still in the buffer cannot be written, nor need it be."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._sink.close()


@contextlib.contextmanager
def _telling(place: Path) -> Iterator[None]:
    """Make a full disk a `DiskFull`; other errors of the file system stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(place) from error
        raise


def _sync(place: Path) -> None:
    """A rename is on disk once its folder is."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
