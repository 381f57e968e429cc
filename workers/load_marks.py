"""Marks on disk of the loads under way: by them a worker's next life knows what killed it, or was under way then."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


class LoadMarks:
    """One worker's marks, a file each, named after the model's key. Without a disk to write to, there are none."""

    def __init__(self, data_dir: Path, worker: str) -> None:
        self._folder = data_dir / "workers" / worker / "loading"
        self._is_open = True

    def take_left(self) -> tuple[str, ...]:
        """Keys of the models that a former life was loading when it died; they are told once."""
        return tuple(path.name for path in sorted(self._folder.glob("*")) if self._remove(path))

    @contextlib.contextmanager
    def mark(self, model_key: str) -> Iterator[None]:
        """Inside, the model is being loaded."""
        path = self._folder / model_key
        if self._is_open:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as error:
                log.warning("a load goes unmarked: %s", error)
        try:
            yield
        finally:
            self._remove(path)

    def close(self) -> None:
        """The worker was told to end: a load that is cut short from here on says nothing of its model."""
        self._is_open = False
        self._clear()

    def _clear(self) -> None:
        for path in self._folder.glob("*"):
            self._remove(path)

    @staticmethod
    def _remove(path: Path) -> bool:
        """False if it stays: it would be told again and again."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a mark of a load stays: %s", error)
            return False
        return True
