"""Who is let into an engine: places for bulk and for online requests, and how far bulk gives way to queries."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Admission:
    """The places of one engine.

    Online requests have places of their own. While any runs, new bulk requests come in only up to
    `bulk_beside_online`: each prompt that is computed holds up every token of a query. What runs is never stopped.
    """

    def __init__(self, *, bulk: int, online: int, bulk_beside_online: int) -> None:
        """Places for bulk requests, for online ones, and for bulk while there are online ones; each above 0."""
        self._bulk_places = bulk
        self._bulk_beside_online = min(bulk, bulk_beside_online)
        self._online_places = asyncio.Semaphore(online)
        self._bulk_running = 0
        self._online_running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextlib.asynccontextmanager
    async def bulk(self) -> AsyncIterator[None]:
        """A bulk request's place; first come, first served."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(admitted)
        self._let_in()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():  # cancelled while waiting, it never had a place
                self._bulk_running -= 1
                self._let_in()

    @contextlib.asynccontextmanager
    async def online(self) -> AsyncIterator[None]:
        """An online request's place. Bulk gives way from the moment it is asked for."""
        self._online_running += 1
        try:
            async with self._online_places:
                yield
        finally:
            self._online_running -= 1
            self._let_in()

    def _let_in(self) -> None:
        limit = self._bulk_beside_online if self._online_running else self._bulk_places
        while self._waiting and self._bulk_running < limit:
            admitted = self._waiting.popleft()
            if not admitted.cancelled():
                self._bulk_running += 1
                admitted.set_result(None)
