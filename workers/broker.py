"""The worker's side of Redis: claims, progress, replies and cancelled ids."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from workers import messages
from workers.messages import Delta, OnlineRequest, Progress

PROGRESS_MESSAGES = 100_000
"""About how many messages the progress stream keeps: hours of them for a reader that was away."""
REPLY_GRACE_S = 60.0
"""How long an online reply stays readable past its deadline."""
MAX_CONNECTIONS = 8
TIMEOUT_S = 5.0
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
UNREACHABLE = (RedisError, OSError, asyncio.TimeoutError)
"""What Redis being away, starting, or over full looks like."""
log = logging.getLogger(__name__)
T = TypeVar("T")


class Broker:
    """Redis, for one worker. Every call but `claim` raises one of `UNREACHABLE` at once if Redis is away."""

    def __init__(self, url: str) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
        )
        self._redis = redis.asyncio.Redis(connection_pool=pool)
        self._ahead_s = 0.0
        """How far this machine's clock is ahead of Redis's, as of the last publication."""

    def by_our_clock(self, online: OnlineRequest) -> OnlineRequest:
        """The request with its deadline by this machine's clock."""
        return online.model_copy(update={"deadline_s": online.deadline_s + self._ahead_s})

    async def claim(self, chunk_id: int, holder: str) -> bool:
        """Take a chunk, or make sure that one still has it; False if another has, or it was given up.

        Waits for Redis as long as it takes. `holder` is unique to this delivery of the chunk, so that a try whose
        answer was lost is known for one's own. A claim that a flush took away is taken again.
        """

        async def take() -> bool:
            key = messages.claim_key(chunk_id)
            if await self._redis.set(key, holder, nx=True, ex=messages.CLAIM_TTL_S):
                return True
            # A first try may have arrived although its answer was lost.
            return bool(await self._redis.get(key) == holder)

        return await _insist(take)

    async def cancelled(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are cancelled."""
        if not ids:
            return set()
        flags = await self._redis.smismember(messages.CANCELLED_KEY, list(ids))
        return {each for each, flag in zip(ids, flags, strict=True) if flag}

    async def publish(self, progress: Progress, *, sequence: str) -> None:
        """Send progress once: after a failure, calling again with the same `sequence` does not send it twice."""
        worker = progress.state.worker
        mark = f"muster:published:{worker}"
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(mark)
            pipeline.time()
            published, (seconds, micros) = await pipeline.execute()
        if published == sequence:
            return
        now_s = seconds + micros / 1e6
        self._ahead_s = time.time() - now_s
        state = progress.state.model_copy(update={"at": now_s})
        progress = progress.model_copy(update={"state": state})
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(
                messages.PROGRESS_STREAM,
                {"progress": progress.model_dump_json()},
                maxlen=PROGRESS_MESSAGES,
                approximate=True,
            )
            pipeline.hset(messages.WORKERS_KEY, worker, progress.state.model_dump_json())
            pipeline.set(mark, sequence, ex=messages.CLAIM_TTL_S)
            await pipeline.execute()

    async def withdraw(self, worker: str) -> None:
        """Take a worker that ends off the list."""
        await self._redis.hdel(messages.WORKERS_KEY, worker)

    async def reply(self, deltas: Mapping[str, Delta], deadlines_s: Mapping[str, float], now_s: float) -> None:
        """Append a delta to the reply stream of each request, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for request_id, delta in deltas.items():
                stream = messages.reply_stream(request_id)
                pipeline.xadd(stream, {"delta": delta.model_dump_json()})
                pipeline.expire(stream, int(max(0.0, deadlines_s[request_id] - now_s) + REPLY_GRACE_S))
            await pipeline.execute()

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """Try until Redis answers."""
    delay_s = RETRY_FIRST_S
    while True:
        try:
            return await call()
        except UNREACHABLE as error:
            log.warning("Redis is away (%s); trying again in %.1f s", error, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MOST_S)
