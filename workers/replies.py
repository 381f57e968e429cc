"""Carries online deltas to their reply streams: whatever gathers during one round trip goes in the next."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from workers.broker import RETRY_FIRST_S, UNREACHABLE
from workers.messages import Delta

log = logging.getLogger(__name__)


class Sender(Protocol):
    """Where replies go."""

    async def reply(self, deltas: Mapping[str, Delta], deadlines_s: Mapping[str, float], now_s: float) -> None:
        """Append a delta to the reply stream of each request. Raises one of `UNREACHABLE`."""


class Replies:
    """Never one message per token: all that an engine step made, for all requests, is one round trip."""

    def __init__(self, broker: Sender) -> None:
        self._broker = broker
        self._texts: dict[str, list[str]] = {}
        self._last: dict[str, Delta] = {}
        self._deadlines_s: dict[str, float] = {}
        self._news = asyncio.Event()

    def put(self, request_id: str, delta: Delta, *, deadline_s: float) -> None:
        """Send a delta soon. `deadline_s`: Unix time after which nobody reads it."""
        self._deadlines_s[request_id] = deadline_s
        if delta.text:
            self._texts.setdefault(request_id, []).append(delta.text)
        if delta.completion is not None:
            self._last[request_id] = delta
        self._news.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._news.wait()
            # Let the readers of the same engine step put theirs first.
            await asyncio.sleep(0)
            if not await self.flush():
                await asyncio.sleep(RETRY_FIRST_S)
                self._news.set()

    async def flush(self) -> bool:
        """Send what there is; False if Redis is away (kept until the deadline)."""
        self._news.clear()
        texts, self._texts = self._texts, {}
        last, self._last = self._last, {}
        now_s = time.time()
        batch = {
            request_id: _merged(texts.get(request_id, []), last.get(request_id))
            for request_id in {**texts, **last}
            if self._deadlines_s[request_id] + RETRY_FIRST_S > now_s or request_id in last
        }
        if not batch:
            return True
        try:
            await self._broker.reply(batch, self._deadlines_s, now_s)
        except UNREACHABLE as error:
            log.warning("replies not sent, kept until their deadlines: %s", error)
            self._put_back(texts, last, now_s)
            return False
        except asyncio.CancelledError:
            self._put_back(texts, last, now_s)  # for the last flush of a worker that ends
            raise
        for request_id in last:
            if request_id not in self._texts and request_id not in self._last:
                self._deadlines_s.pop(request_id, None)
        return True

    def _put_back(self, texts: dict[str, list[str]], last: dict[str, Delta], now_s: float) -> None:
        """A try that arrived although its answer was lost repeats text; the completion carries the whole text."""
        for request_id in {**texts, **last}:
            if self._deadlines_s[request_id] < now_s:
                self._deadlines_s.pop(request_id)
                self._texts.pop(request_id, None)
                self._last.pop(request_id, None)
                continue
            if request_id in texts:
                self._texts[request_id] = texts[request_id] + self._texts.get(request_id, [])
            if request_id in last:
                self._last.setdefault(request_id, last[request_id])


def _merged(texts: list[str], last: Delta | None) -> Delta:
    return Delta(text="".join(texts), completion=None if last is None else last.completion)
