"""Watches the set of cancelled ids for those that this worker holds."""

import asyncio
import logging
from collections.abc import Callable

from workers.broker import UNREACHABLE, Broker

CHECK_INTERVAL_S = 1.0
log = logging.getLogger(__name__)


class Cancels:
    """Calls back, once, when an id it was told to watch is cancelled."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._watched: dict[str, dict[object, Callable[[], object]]] = {}

    def watch(self, cancel_id: str, on_cancel: Callable[[], object]) -> Callable[[], None]:
        """Watch an id; several may watch the same. Returns what ends the watch."""
        token = object()
        self._watched.setdefault(cancel_id, {})[token] = on_cancel

        def unwatch() -> None:
            watchers = self._watched.get(cancel_id, {})
            watchers.pop(token, None)
            if not watchers:
                self._watched.pop(cancel_id, None)

        return unwatch

    async def check(self) -> None:
        """Look once, now. Redis away: looked again in a second."""
        try:
            found = await self._broker.cancelled(list(self._watched))
        except UNREACHABLE as error:
            log.warning("cancelled ids not read: %s", error)
            return
        for cancel_id in found:
            for on_cancel in self._watched.pop(cancel_id, {}).values():
                on_cancel()

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_INTERVAL_S)
