"""Clients whose API is killed while they send it something."""

import io
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import sqlalchemy as sa

from tests.faults.house import House
from tests.waiting import until

_LOCK = "LOCK TABLE run IN SHARE ROW EXCLUSIVE MODE"
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%INSERT INTO run (%'"


def cut_short(house: House, submit: Callable[[], httpx.Response], *, after_s: float | None = None) -> str | None:
    """Kill the API in the middle of what `submit` makes it write; the id that the client was told, if it was.

    Before its commit, or `after_s` seconds after nothing stood in the way of that any more. The API is up again then.
    """
    with ThreadPoolExecutor() as threads:
        with house.engine.begin() as connection:
            connection.execute(sa.text(_LOCK))
            told = threads.submit(submit)
            until(lambda: house.value(_WAITS))
            if after_s is None:
                house.api.kill()
        if after_s is not None:
            time.sleep(after_s)  # a point in time, not a wait for something
            house.api.kill()
        house.api.start()
        until(house.is_ready, timeout_s=30)
        try:
            return str(told.result().json()["id"])
        except httpx.HTTPError:
            return None


def moments(count: int) -> list[float | None]:
    """When to cut so many submissions short: in turn before the commit, and at random around it and the answer."""
    draw = random.Random(3)
    return [draw.uniform(0, 0.03) if number % 2 else None for number in range(count)]


class HalfSent(io.RawIOBase):
    """A file that a client sends: the second half of it once `goes_on` is set."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._sent = 0
        self.goes_on = threading.Event()

    def read(self, size: int = -1) -> bytes:
        if self._sent >= len(self._content) // 2:
            self.goes_on.wait()
        block = bytes(self._content[self._sent :][: size if size >= 0 else None])
        self._sent += len(block)
        return block
