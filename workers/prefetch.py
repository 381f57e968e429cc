"""Reads the next model's weights into the host's page cache while the present one still works."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from workers import weights
from workers.engines.engine import ModelError
from workers.loader import host_available_bytes
from workers.messages import Model

PIECE_BYTES = 8 << 20
"""Read at once. One piece after the other leaves the disk to whoever else wants it."""
CACHE_SHARE = 0.5
"""Of the host's available memory: larger weights would push their own beginning out of the cache again."""
log = logging.getLogger(__name__)


class Prefetcher:
    """One model at a time, each once until another was prefetched. Nothing that goes wrong here stops anything."""

    def __init__(
        self,
        data_dir: Path,
        *,
        is_at_hand: Callable[[str], bool] = lambda key: False,
        available_bytes: Callable[[], int] = host_available_bytes,
    ) -> None:
        """`is_at_hand`: whether the model of this key is resident, or asleep, and its weights need not be read."""
        self._data_dir = data_dir
        self._is_at_hand = is_at_hand
        self._available_bytes = available_bytes
        self._last: str | None = None
        self._next: Model | None = None
        """The latest that was asked for while another is read: who asked does not ask again."""
        self._task: asyncio.Task[None] | None = None

    def begin(self, model: Model) -> None:
        """Begin to get the weights ready, or keep that for later, and return at once."""
        if model.engine != "vllm" or self._last == model.key or self._is_at_hand(model.key):
            return
        self._next = model
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wait no longer (a thread that reads comes to its end by itself)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while (model := self._next) is not None:
            self._next = None
            if not self._is_at_hand(model.key):
                self._last = model.key
                await self._fetch(model)

    async def _fetch(self, model: Model) -> None:
        began = time.monotonic()
        try:
            count = await asyncio.to_thread(self._read, model)
        except (ModelError, OSError) as error:
            log.warning("prefetch of %s: %s", model.source, error)  # its load will say so, to those who asked
        else:
            log.info("prefetched %d MiB of %s in %.1f s", count >> 20, model.source, time.monotonic() - began)

    def _read(self, model: Model) -> int:
        """Fetch or convert the weights if need be, then read them; returns the bytes read."""
        folder = weights.resolve(model.source, revision=model.revision, data_dir=self._data_dir)
        if weights.size_bytes(folder) > CACHE_SHARE * self._available_bytes():
            log.info("prefetch of %s: its weights do not fit into the page cache", model.source)
            return 0
        return sum(read_through(path) for path in weights.files(folder))


def read_through(path: Path) -> int:
    """Have a file in the page cache; returns its bytes."""
    buffer = bytearray(PIECE_BYTES)
    total = 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            total += count
    return total
