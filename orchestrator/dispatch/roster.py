"""The workers heard of: what each last said, and since when it has had nothing to do."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import redis

from orchestrator import residency
from orchestrator.dispatch.backlog import Window
from workers.messages import WORKER_STALE_S, Progress, WorkerState


@dataclass(kw_only=True)
class _Seen:
    """A worker as last heard of. Moments are of the monotonic clock, but for `at_ms`: Redis's own, so that no other
    machine's matters."""

    state: WorkerState
    at_ms: int
    busy_at: float
    chunk_at: float
    online_at: float | None = None


class Roster:
    """Kept by one dispatcher, from what workers tell it."""

    def __init__(self, client: redis.Redis, *, window_chunks: int) -> None:
        """`window_chunks`: chunks sent to one worker at most."""
        self._redis = client
        self._window_chunks = window_chunks
        self._seen: dict[str, _Seen] = {}

    def note(self, message: Progress, at_ms: int) -> None:
        """A worker said this at that moment of Redis's clock."""
        now = time.monotonic()
        seen = self._seen.get(message.state.worker)
        if seen is None:
            seen = self._seen[message.state.worker] = _Seen(state=message.state, at_ms=at_ms, busy_at=now, chunk_at=now)
        seen.state, seen.at_ms = message.state, at_ms
        if message.chunks or message.ended:
            seen.busy_at = seen.chunk_at = now
        if message.loads:
            seen.busy_at = now
        if message.state.online_running:
            seen.online_at = now

    def note_load_for_queries(self, worker: str) -> None:
        """A model that queries waited for is there now."""
        self._seen[worker].online_at = time.monotonic()

    def forget(self, workers: Iterable[str]) -> None:
        for name in workers:
            self._seen.pop(name, None)

    def has(self, worker: str, model_key: str) -> bool:
        """Whether the model is resident there."""
        return model_key in self._seen[worker].state.resident

    def alive(
        self, windows: Mapping[str, Window], *, loading_at: Callable[[str], Iterable[str]]
    ) -> list[residency.Worker]:
        """Those heard of lately, as the plan sees them.

        `windows` says what is out at each, `loading_at(worker)` which loads were asked for and have not ended.
        """
        if not self._seen:
            return []
        seconds, micros = self._redis.time()
        oldest_ms = seconds * 1000 + micros // 1000 - int(WORKER_STALE_S * 1000)
        return [
            self._worker(name, seen, windows.get(name, Window()), loading_at(name))
            for name, seen in self._seen.items()
            if seen.at_ms >= oldest_ms
        ]

    def _worker(self, name: str, seen: _Seen, window: Window, asked_for: Iterable[str]) -> residency.Worker:
        now, state = time.monotonic(), seen.state
        if window.chunks:
            seen.busy_at = seen.chunk_at = now
        loading = dict.fromkeys([*state.loading_keys, *asked_for])
        return residency.Worker(
            name=name,
            engines=state.engines,
            window=min(self._window_chunks, state.bulk_slots),
            devices=state.devices,
            residents=state.residents,
            resident=state.resident,
            asleep=state.asleep,
            whole=state.whole,
            loading=tuple(key for key in loading if key not in state.resident),
            out=window.chunks,
            is_alone=window.is_alone,
            is_unbounded=state.device == "none",
            is_draining=state.draining,
            idle_s=now - seen.busy_at,
            bulk_idle_s=now - seen.chunk_at,
            online_idle_s=None if seen.online_at is None else now - seen.online_at,
        )
