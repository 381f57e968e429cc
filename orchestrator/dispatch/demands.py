"""Models that online requests wait for: what the planner owes them, and when it was met."""

import time
from dataclasses import dataclass
from typing import cast

import redis

from workers.messages import DEMAND_KEY, Demand, load_error_key

RETRY_S = 30.0
"""After a failed load a demanded model is left alone for so long."""
LOAD_EXPECTED_S = 5.0
"""A worker that was sent a load mentions it within this time, or the message was lost."""


@dataclass(frozen=True, kw_only=True)
class _Sent:
    at: float
    for_queries: bool


class Demands:
    """The demands in Redis, and the loads that were sent, for them or ahead of work."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._sent: dict[tuple[str, str], _Sent] = {}
        """(worker, model) -> the load that it was sent and has not reported."""
        self._failed: dict[str, float] = {}

    def waiting(self) -> dict[str, Demand]:
        """Model -> its demand. Those whose load failed a moment ago are taken away: nobody need wait to hear it."""
        now = time.monotonic()
        entries = cast("dict[str, str]", self._redis.hgetall(DEMAND_KEY))
        hopeless = [key for key in entries if now - self._failed.get(key, -RETRY_S) < RETRY_S]
        if hopeless:
            self._redis.hdel(DEMAND_KEY, *hopeless)
        return {key: Demand.model_validate_json(entry) for key, entry in entries.items() if key not in hopeless}

    def sent(self, model_key: str, worker: str, *, for_queries: bool) -> None:
        """A load was sent."""
        self._sent[worker, model_key] = _Sent(at=time.monotonic(), for_queries=for_queries)

    def loading_at(self, worker: str) -> list[str]:
        """The models this worker was sent to load, and has not had the time to mention."""
        since = time.monotonic() - LOAD_EXPECTED_S
        return [key for (name, key), sent in self._sent.items() if name == worker and sent.at > since]

    def met(self, model_keys: set[str]) -> None:
        """These models are resident: requests for them find a worker by themselves."""
        if model_keys:
            self._redis.hdel(DEMAND_KEY, *model_keys)

    def loaded(self, model_key: str, worker: str) -> bool:
        """A load was done: what failed before says nothing any more. Returns whether it was sent for queries."""
        self._failed.pop(model_key, None)
        self._redis.delete(load_error_key(model_key))
        sent = self._sent.pop((worker, model_key), None)
        return sent is not None and sent.for_queries

    def failed(self, model_key: str, worker: str, reason: str) -> None:
        """The load failed: nobody waits any longer, and for a while nobody begins to; they are told why."""
        self._failed[model_key] = time.monotonic()
        self._sent.pop((worker, model_key), None)
        self._redis.set(load_error_key(model_key), reason, ex=int(RETRY_S))
        self._redis.hdel(DEMAND_KEY, model_key)
