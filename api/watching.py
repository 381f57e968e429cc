"""Runs that are watched: each is read once every so often, however many watch it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

READ_S = 0.5
"""How old what a watcher is given may be."""
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    at: float
    task: "asyncio.Task[Json]"


class Watching:
    """Readings that watchers share, in one event loop."""

    def __init__(self, read: Callable[[str], Json]) -> None:
        """`read`: a run's state by its id; it may block, and runs in a thread."""
        self._read = read
        self._readings: dict[str, _Reading] = {}

    async def read(self, run_id: str) -> Json:
        """The run's state, at most `READ_S` older than this call. Raises what reading it raises."""
        now = time.monotonic()
        reading = self._readings.get(run_id)
        if reading is None or now - reading.at >= READ_S:
            self._readings = {key: kept for key, kept in self._readings.items() if now - kept.at < READ_S}
            task = asyncio.create_task(run_in_threadpool(self._read, run_id))
            reading = self._readings[run_id] = _Reading(at=now, task=task)
        return await asyncio.shield(reading.task)  # a watcher that leaves takes nothing from the others
