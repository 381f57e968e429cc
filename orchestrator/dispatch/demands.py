"""Models that online requests wait for: what the planner owes them, and when it was met."""

import time
from typing import cast

import redis

from workers.messages import DEMAND_KEY, Demand, load_error_key

RETRY_S = 30.0
"""After a failed load a demanded model is left alone for so long."""
LOAD_EXPECTED_S = 5.0
"""A worker that was sent a load mentions it within this time, or the message was lost."""


class Demands:
    """The demands in Redis, and the loads that were sent for them."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._sent: dict[str, tuple[str, float]] = {}
        self._failed: dict[str, float] = {}

    def waiting(self) -> dict[str, Demand]:
        """Model -> its demand. Those whose load failed a moment ago are taken away: nobody need wait to hear it."""
        now = time.monotonic()
        entries = cast("dict[str, str]", self._redis.hgetall(DEMAND_KEY))
        hopeless = [key for key in entries if now - self._failed.get(key, -RETRY_S) < RETRY_S]
        if hopeless:
            self._redis.hdel(DEMAND_KEY, *hopeless)
        return {key: Demand.model_validate_json(entry) for key, entry in entries.items() if key not in hopeless}

    def sent(self, model_key: str, worker: str) -> None:
        """A load was sent."""
        self._sent[model_key] = (worker, time.monotonic())

    def loading_at(self, worker: str) -> str | None:
        """The model this worker was sent to load, and has not had the time to mention."""
        now = time.monotonic()
        for key, (name, at) in self._sent.items():
            if name == worker and now - at < LOAD_EXPECTED_S:
                return key
        return None

    def was_loaded_for_queries(self, model_key: str, worker: str) -> bool:
        return self._sent.get(model_key, ("", 0.0))[0] == worker

    def met(self, model_keys: set[str]) -> None:
        """These models are resident: requests for them find a worker by themselves."""
        if model_keys:
            self._redis.hdel(DEMAND_KEY, *model_keys)

    def loaded(self, model_key: str) -> None:
        """A load was done, for whomever: what failed before says nothing any more."""
        self._failed.pop(model_key, None)
        self._redis.delete(load_error_key(model_key))

    def failed(self, model_key: str, reason: str) -> None:
        """The load failed: nobody waits any longer, and for a while nobody begins to; they are told why."""
        self._failed[model_key] = time.monotonic()
        self._sent.pop(model_key, None)
        self._redis.set(load_error_key(model_key), reason, ex=int(RETRY_S))
        self._redis.hdel(DEMAND_KEY, model_key)
