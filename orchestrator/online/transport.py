"""How one online request reaches an engine and its text comes back, delta by delta."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Protocol

import anyio
import anyio.to_thread
import celery
import redis.asyncio as aioredis
import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator import broker
from orchestrator.online.pricing import least_busy
from orchestrator.settings import Settings
from workers.messages import (
    CANCELLED_KEY,
    DEMAND_KEY,
    ONLINE_TASK,
    WORKER_STALE_S,
    WORKERS_KEY,
    Completion,
    Delta,
    Demand,
    Model,
    OnlineRequest,
    Request,
    WorkerState,
    load_error_key,
    online_queue,
    reply_stream,
)

RESIDENT_POLL_S = 0.05
"""How often to look whether a demanded model has become resident; a load takes seconds at least."""
READ_BLOCK_S = 1.0
"""Longest wait for a delta before looking whether the worker still lives."""
ANSWER_S = 5.0
"""A broker that takes so long for what takes a millisecond is away, whatever its connections say."""
SEND_S = 15.0
"""A send has tries of its own, within this time."""
CANCELLED_KEPT_S = 30.0
"""A cancelled id is forgotten after so long: workers look every second."""
DEADLINE_SLACK_S = 0.25
"""How far apart the worker's end at the deadline and ours may be."""
IN_VAIN = "it did not answer in time"
LOAD_SHOWN_S = 3.0
"""A load that is done shows in a worker's state within this time; a demand that is gone without it has failed."""
SENDS_MAX = 2
"""A request whose worker or engine died before its first word is sent once more: to another worker, or a new engine."""
CONNECTIONS_MAX = 1024
"""Every waiting request blocks a connection: queries in flight times recruits, with room."""

log = structlog.get_logger(__name__)


class Trouble(RuntimeError):
    """All that a transport raises: what one generation can meet with, and a query survives while others answer."""

    spent: Completion | None = None
    """What tries that came to nothing were charged, as far as they told."""


class NoWorker(Trouble):
    """No worker is alive that could run this model."""

    def __init__(self, model: Model) -> None:
        group = f" on {model.tensor_parallel} devices" if model.tensor_parallel > 1 else ""
        super().__init__(
            f"no worker that runs the {model.engine!r} engine{group} is alive; start one (`muster up` starts and "
            "restarts them, or `python -m workers`), or wait a few seconds if one has just been restarted"
        )


class NoBroker(Trouble):
    """The broker cannot be reached."""


class Late(Trouble):
    """The answer, or the model's load before it, would come after the deadline."""

    def __init__(self, message: str, spent: Completion | None = None) -> None:
        super().__init__(message)
        self.spent = spent


class LoadFailed(Trouble):
    """The model's weights could not be loaded."""


class WorkerLost(Trouble):
    """The worker died, or fell silent, while it was answering."""


class Transport(Protocol):
    """Where a query's generations go: the broker, or a test's own."""

    def stream(self, request: Request, model: Model, *, deadline_s: float) -> AsyncGenerator[Delta, None]:
        """Deltas of one generation; the last carries its completion.

        `deadline_s` is Unix time. Closing the generator early cancels the request.
        Raises `Trouble`, of one of its kinds.
        """
        ...

    async def workers(self) -> list[WorkerState]:
        """The workers that reported lately and are not about to leave."""
        ...

    async def resident(self) -> frozenset[str]:
        """Keys of the models that can answer without a load."""
        ...

    def awaited(self) -> Mapping[str, int]:
        """Model key -> requests of this process that wait for its load."""
        ...


class BrokerTransport:
    """Sends requests as Celery tasks to a worker's own online queue; replies come back on a Redis stream each."""

    def __init__(self, client: "aioredis.Redis", app: celery.Celery, *, waiting_max: int) -> None:
        """`waiting_max`: online requests that may wait at one worker; others are asked where there is a choice."""
        self._redis = client
        self._app = app
        self._waiting_max = waiting_max
        self._forgetting: set[asyncio.Task[None]] = set()
        self._sent: Counter[str] = Counter()
        """Worker -> requests sent to it from here that have not ended."""
        self._awaited: Counter[str] = Counter()
        self._ahead_s = 0.0
        """How far this machine's clock is ahead of Redis's: each look at the workers tells."""

    @classmethod
    def connect(cls, settings: Settings) -> "BrokerTransport":
        """A transport over `settings.redis_url`; nothing is connected until the first request."""
        client = aioredis.Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            max_connections=CONNECTIONS_MAX,
            socket_connect_timeout=5,
            socket_timeout=READ_BLOCK_S + 10,
            health_check_interval=30,
        )
        return cls(client, broker.sender(settings), waiting_max=settings.online_waiting)

    async def aclose(self) -> None:
        for task in self._forgetting:
            task.cancel()
        await self._redis.aclose()
        self._app.close()

    async def ping(self) -> None:
        """Raises `NoBroker` where the broker cannot be reached."""
        async with _reaching_broker():
            await self._redis.ping()

    async def workers(self) -> list[WorkerState]:
        """The workers that reported lately and are not about to leave."""
        async with _reaching_broker(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(WORKERS_KEY)
            pipeline.time()
            entries, (seconds, micros) = await pipeline.execute()
        now_s = seconds + micros / 1e6
        self._ahead_s = time.time() - now_s
        states = (WorkerState.model_validate_json(entry) for entry in entries.values())
        oldest = now_s - WORKER_STALE_S
        alive = [state for state in states if state.at >= oldest and not state.draining]
        # Workers report every second: what was sent since is known here alone.
        return [
            state.model_copy(update={"online_running": max(state.online_running, self._sent[state.worker])})
            for state in alive
        ]

    async def resident(self) -> frozenset[str]:
        return frozenset(key for worker in await self.workers() for key in worker.resident)

    def awaited(self) -> Mapping[str, int]:
        return dict(self._awaited)

    async def stream(self, request: Request, model: Model, *, deadline_s: float) -> AsyncGenerator[Delta, None]:
        avoid: set[str] = set()
        lost: Completion | None = None
        for attempt in range(1, SENDS_MAX + 1):
            attempt_id = request.id if attempt == 1 else f"{request.id}.{attempt}"
            begun, worker = False, ""
            try:
                worker = await self._worker_for(model, deadline_s, avoid)
                sent = request.model_copy(update={"id": attempt_id})
                async with contextlib.aclosing(self._exchange(sent, model, worker, deadline_s)) as deltas:
                    async for delta in deltas:
                        if not begun and attempt < SENDS_MAX and _engine_failed(delta):
                            log.warning("engine lost before its first word; once more", request=request.id)
                            lost = delta.completion
                            break
                        begun = True
                        if delta.completion is not None:
                            delta = delta.model_copy(update={"completion": _with_charges_of(lost, delta.completion)})
                        yield delta
                    else:
                        return
            except Trouble as trouble:
                if begun or attempt == SENDS_MAX or not isinstance(trouble, WorkerLost):
                    trouble.spent = lost if trouble.spent is None else _with_charges_of(lost, trouble.spent)
                    raise
                log.warning("worker lost before its first word; asking another", worker=worker, request=request.id)
                avoid.add(worker)

    async def _worker_for(self, model: Model, deadline_s: float, avoid: set[str]) -> str:
        """The least busy worker that can answer now; where a load comes first, waits for it. Raises as `stream`."""
        if (worker := await self._ready(model, avoid)) is not None:
            return worker
        self._awaited[model.key] += 1
        try:
            return await self._loaded(model, deadline_s, avoid)
        finally:
            self._awaited[model.key] -= 1

    async def _ready(self, model: Model, avoid: set[str]) -> str | None:
        """The least busy worker that has the model; None if it is to be loaded. Raises `NoWorker`."""
        able = [w for w in await self.workers() if w.can_run(model) and w.worker not in avoid]
        if not able:
            raise NoWorker(model)
        ready = [w for w in able if w.device == "none" or model.key in w.resident]
        return least_busy(ready, self._waiting_max).worker if ready else None

    async def _loaded(self, model: Model, deadline_s: float, avoid: set[str]) -> str:
        """Has the model loaded, and waits for it. Raises as `stream`."""
        demanded_until = 0.0
        while True:
            if (reason := await self._load_error(model)) is not None:
                raise LoadFailed(f"{model.source} could not be loaded: {reason}")
            if time.time() + RESIDENT_POLL_S >= deadline_s:
                raise Late(f"{model.source} was not loaded in time")
            if await self._is_demanded(model, write=not demanded_until):
                demanded_until = time.time() + LOAD_SHOWN_S
            elif time.time() > demanded_until:
                raise LoadFailed(f"{model.source} could not be loaded; GET /v1/experts and the worker's log say why")
            await asyncio.sleep(RESIDENT_POLL_S)
            if (worker := await self._ready(model, avoid)) is not None:
                return worker

    async def _load_error(self, model: Model) -> str | None:
        """Why the latest load of this model failed, if that was a moment ago."""
        async with _reaching_broker():
            reason = await self._redis.get(load_error_key(model.key))
        return None if reason is None else str(reason)

    async def _is_demanded(self, model: Model, *, write: bool) -> bool:
        """Whether the demand for this model stands, written first if asked to. The dispatcher takes it away."""
        async with _reaching_broker():
            if write:
                demand = Demand(model=model, since_s=time.time() - self._ahead_s)
                await self._redis.hsetnx(DEMAND_KEY, model.key, demand.model_dump_json())
                return True
            return bool(await self._redis.hexists(DEMAND_KEY, model.key))

    async def _exchange(
        self, request: Request, model: Model, worker: str, deadline_s: float
    ) -> AsyncGenerator[Delta, None]:
        message = OnlineRequest(request=request, model=model, deadline_s=deadline_s - self._ahead_s)
        finished = False
        self._sent[worker] += 1
        try:
            async with _reaching_broker(SEND_S):
                await anyio.to_thread.run_sync(broker.send, self._app, ONLINE_TASK, online_queue(worker), message)
            async for delta in self._replies(request.id, worker, deadline_s):
                finished = delta.completion is not None
                yield delta
                if finished:
                    return
        finally:
            self._sent[worker] -= 1
            with anyio.move_on_after(ANSWER_S, shield=True):
                await self._forget(request.id, cancel=not finished)

    async def _replies(self, request_id: str, worker: str, deadline_s: float) -> AsyncIterator[Delta]:
        stream, position = reply_stream(request_id), "0"
        # A moment more than there is: the worker gives up at the deadline, and tells what it charges.
        while (left_s := deadline_s + DEADLINE_SLACK_S - time.time()) > 0:
            block_ms = max(1, int(min(left_s, READ_BLOCK_S) * 1000))
            async with _reaching_broker(block_ms / 1000 + ANSWER_S):
                entries = await self._redis.xread({stream: position}, block=block_ms, count=256)
            for entry_id, fields in _entries(entries):
                position = entry_id
                delta = Delta.model_validate_json(fields["delta"])
                if _was_late(delta, deadline_s):
                    raise Late(IN_VAIN, delta.completion)
                yield delta
            if not entries and not await self._lives(worker):
                raise WorkerLost(f"worker {worker} was lost while it was answering")
        raise Late(IN_VAIN)

    async def _lives(self, worker: str) -> bool:
        """Whether it reported lately (one that is draining still finishes what it has)."""
        async with _reaching_broker():
            entry = await self._redis.hget(WORKERS_KEY, worker)
        oldest = time.time() - self._ahead_s - WORKER_STALE_S
        return entry is not None and WorkerState.model_validate_json(entry).at >= oldest

    async def _forget(self, request_id: str, *, cancel: bool) -> None:
        """Leave nothing behind; a request that nobody waits for any more is cancelled."""
        with contextlib.suppress(RedisError, OSError):
            if cancel:
                await self._redis.sadd(CANCELLED_KEY, request_id)
                task = asyncio.create_task(self._forget_cancelled(request_id))
                self._forgetting.add(task)
                task.add_done_callback(self._forgetting.discard)
            else:
                await self._redis.delete(reply_stream(request_id))

    async def _forget_cancelled(self, request_id: str) -> None:
        await asyncio.sleep(CANCELLED_KEPT_S)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.srem(CANCELLED_KEY, request_id)
            await self._redis.delete(reply_stream(request_id))


@contextlib.asynccontextmanager
async def _reaching_broker(bound_s: float = ANSWER_S) -> AsyncIterator[None]:
    """Turns a broker that is away, or takes longer than `bound_s`, into `NoBroker`."""
    try:
        async with asyncio.timeout(bound_s):
            yield
    except (RedisError, OperationalError, OSError) as error:  # TimeoutError is an OSError
        raise NoBroker(
            f"the broker (REDIS_URL) cannot be reached: {str(error) or 'no answer'}; "
            "`muster up` restarts it, or look at its log"
        ) from error


def _with_charges_of(lost: Completion | None, completion: Completion) -> Completion:
    """The query pays for the try that was lost, too."""
    if lost is None:
        return completion
    charged = {"device_s": completion.device_s + lost.device_s, "load_s": completion.load_s + lost.load_s}
    return completion.model_copy(update=charged)


def _engine_failed(delta: Delta) -> bool:
    """Whether the engine died, or was killed because it stood still: the next may answer."""
    return delta.completion is not None and delta.completion.fault == "engine"


def _was_late(delta: Delta, deadline_s: float) -> bool:
    """Whether the worker gave up at the deadline: it may see it pass a moment before we do."""
    is_aborted = delta.completion is not None and delta.completion.finish_reason == "abort"
    return is_aborted and time.time() >= deadline_s - DEADLINE_SLACK_S


def _entries(reply: object) -> list[tuple[str, dict[str, str]]]:
    """(position, fields) of an XREAD of one stream, whichever protocol version shaped the reply."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (batches,) = reply.values()
        return [entry for batch in batches for entry in (batch if isinstance(batch, list) else [batch])]
    assert isinstance(reply, list)
    entries: list[tuple[str, dict[str, str]]] = reply[0][1]
    return entries


async def completed(deltas: AsyncIterator[Delta]) -> Completion:
    """The completion at the end of a stream of deltas."""
    async for delta in deltas:
        if delta.completion is not None:
            return delta.completion
    raise WorkerLost("the answer broke off")
