"""Tells the orchestrator what the worker holds and has finished: every second, and soon after any news."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from workers.broker import UNREACHABLE
from workers.messages import PROGRESS_INTERVAL_S, Completion, Finished, LoadEvent, MeasuredSpeed, Progress, WorkerState

GATHER_S = 0.08
"""News is gathered for so long before it is sent: at most a dozen messages a second."""
MESSAGE_COMPLETIONS = 256
"""Completions in one message at most, so that one commit of the orchestrator stays short."""
log = logging.getLogger(__name__)


class Publisher(Protocol):
    """Where progress goes."""

    async def publish(self, progress: Progress, *, sequence: str) -> None:
        """Send it once, also if called again with the same `sequence`. Raises one of `UNREACHABLE`."""


class Reporter:
    """Gathers news and publishes it. While Redis is away news is kept: no more than the chunks that are held."""

    def __init__(self, broker: Publisher, state: Callable[[], WorkerState]) -> None:
        """`state` tells how the worker is now."""
        self._broker = broker
        self._state = state
        self._held: dict[int, bool] = {}
        """Chunk -> whether it was begun."""
        self._finished: list[Finished] = []
        self._ended: list[int] = []
        self._loads: list[LoadEvent] = []
        self._speeds: tuple[MeasuredSpeed, ...] = ()
        self._news = asyncio.Event()
        self._life = uuid.uuid4().hex
        self._sequence = 0
        self._unsent: Progress | None = None

    def hold(self, chunk_id: int) -> None:
        """From now on the chunk is mentioned, so that its lease is renewed."""
        self._held[chunk_id] = False
        self._news.set()

    def begin(self, chunk_id: int) -> None:
        """Something of a chunk that is held has entered the engine."""
        if self._held.get(chunk_id) is False:
            self._held[chunk_id] = True
            self._news.set()

    def holds(self, chunk_id: int) -> bool:
        return chunk_id in self._held

    def release(self, chunk_id: int) -> None:
        """Mention the chunk no more, and say nothing about it: it is not ours."""
        self._held.pop(chunk_id, None)

    def finish(self, chunk_id: int, completion: Completion) -> None:
        self._finished.append(Finished(chunk_id=chunk_id, completion=completion))
        self._news.set()

    def end(self, chunk_id: int) -> None:
        """The chunk is done with: whatever of it is not finished is handed back."""
        self._held.pop(chunk_id, None)
        self._ended.append(chunk_id)
        self._news.set()

    def load(self, event: LoadEvent) -> None:
        self._loads.append(event)
        self._news.set()

    def speeds(self, measured: Sequence[MeasuredSpeed]) -> None:
        """Goes with the next message, which need not be soon."""
        self._speeds = tuple(measured)

    def changed(self) -> None:
        """Something in the worker's state changed: publish soon."""
        self._news.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self.flush()
            try:
                await asyncio.wait_for(self._news.wait(), PROGRESS_INTERVAL_S)
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                pass

    async def flush(self) -> bool:
        """Publish everything now; False if Redis is away (nothing is lost: the next flush sends it)."""
        while True:
            self._news.clear()
            message = self._unsent or self._next()
            # Kept as it is until it is known to be sent: sent again in parts, it could count twice.
            self._unsent = message
            try:
                await self._broker.publish(message, sequence=f"{self._life}-{self._sequence}")
            except UNREACHABLE as error:
                log.warning("progress not sent, kept for later: %s", error)
                return False
            self._unsent = None
            if not (self._finished or self._ended or self._loads):
                return True

    def _next(self) -> Progress:
        """Take news off the lists into a message. A chunk ends only with its last completions."""
        self._sequence += 1
        finished, self._finished = self._finished[:MESSAGE_COMPLETIONS], self._finished[MESSAGE_COMPLETIONS:]
        ended: list[int] = []
        if not self._finished:
            ended, self._ended = self._ended, []
        loads, self._loads = self._loads, []
        speeds, self._speeds = self._speeds, ()
        return Progress(
            state=self._state(),
            chunks=(*self._held, *self._ended),
            begun=tuple(chunk_id for chunk_id, is_begun in self._held.items() if is_begun),
            finished=tuple(finished),
            ended=tuple(ended),
            loads=tuple(loads),
            speeds=speeds,
        )
