"""Works off chunks."""

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from workers import generation
from workers.broker import Broker
from workers.cancels import Cancels
from workers.engines.engine import GenerationError
from workers.messages import Chunk, Request
from workers.meter import Share
from workers.progress import Reporter
from workers.residency import Residency, Resident

CLAIM_FRESH_S = 2.0
"""A claim not looked at for so long is looked at again before anything of its chunk enters the engine. Well below the
orchestrator's lease: a worker that was frozen or cut off must not begin what others have finished meanwhile."""
log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class _Work:
    """One chunk being worked on."""

    chunk: Chunk
    task: "asyncio.Task[None]"
    """The whole chunk."""
    units: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)
    """Request id -> its generation, waiting for a place in the engine or running."""
    running: dict[str, Share] = field(default_factory=dict)
    """Request id -> what it is charged, of those that are or were in the engine."""
    load_s: float = 0.0
    """The part of the load that this chunk was the first to use, for each unit that was not cancelled before it."""
    cancelled: set[str] = field(default_factory=set)
    """Request ids that a user cancelled."""
    holder: str
    """Whose claim it is."""
    claimed_s: float = float("-inf")
    """When the claim was last known to hold, by the monotonic clock."""
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock)


class BulkDesk:
    """Takes chunks, claims them, waits for their model, and reports each unit as it ends."""

    def __init__(
        self, *, worker: str, broker: Broker, cancels: Cancels, reporter: Reporter, residency: Residency
    ) -> None:
        """`worker` is named in claims, for people who look at them."""
        self._holder = worker
        self._broker = broker
        self._cancels = cancels
        self._reporter = reporter
        self._residency = residency
        self._work: dict[int, _Work] = {}
        self._draining = False

    async def run(self, chunk: Chunk) -> None:
        """Work off one chunk, to its end. A chunk that was claimed before is dropped."""
        if chunk.id in self._work:
            return
        if self._draining:
            self._reporter.end(chunk.id)
            return
        task = asyncio.create_task(self._run(chunk))
        self._work[chunk.id] = _Work(chunk=chunk, task=task, holder=f"{self._holder}/{uuid.uuid4().hex}")
        try:
            await asyncio.wait([task])
        finally:
            del self._work[chunk.id]

    def stop_taking(self) -> None:
        """Begin no chunk any more. What waits for its model and does not get it is handed back."""
        self._draining = True

    async def drain(self, timeout_s: float) -> None:
        """Let requests in the engine end, for `timeout_s` at most; hand everything else back."""
        self.stop_taking()
        for work in self._work.values():
            if not work.units:
                work.task.cancel()
            for request_id, unit in work.units.items():
                if request_id not in work.running:
                    unit.cancel()
        tasks = [work.task for work in self._work.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run(self, chunk: Chunk) -> None:
        work = self._work[chunk.id]
        self._reporter.hold(chunk.id)
        try:
            if not await self._is_ours(work):
                return
            unwatch = self._watch(work)
            try:
                await self._cancels.check()
                await self._generate(work)
            finally:
                unwatch()
        except GenerationError as error:
            log.warning("chunk %d: %s", chunk.id, error)
            for request in () if self._draining else chunk.requests:
                if request.id not in work.cancelled:
                    self._reporter.finish(chunk.id, generation.unloaded(request.id, error))
        except asyncio.CancelledError:
            log.info("chunk %d handed back", chunk.id)
        except Exception:  # the orchestrator gets the rest of the chunk back, the worker goes on
            log.exception("chunk %d", chunk.id)
        finally:
            if self._reporter.holds(chunk.id):
                self._reporter.end(chunk.id)

    async def _generate(self, work: _Work) -> None:
        chunk = work.chunk
        async with self._residency.use(chunk.model, online=False, chunk_id=chunk.id) as resident:
            wanted = [request for request in chunk.requests if request.id not in work.cancelled]
            work.load_s = resident.account.pay_load() / len(wanted) if wanted else 0.0
            for request in wanted:
                work.units[request.id] = asyncio.create_task(self._unit(work, resident, request))
            try:
                await asyncio.gather(*work.units.values(), return_exceptions=True)
            finally:
                await _cancel_all(work.units.values())

    async def _unit(self, work: _Work, resident: Resident, request: Request) -> None:
        async with resident.admission.bulk():
            if not await self._is_ours(work):
                work.task.cancel()
                return
            self._reporter.begin(work.chunk.id)
            share = work.running[request.id] = resident.account.begin(load_s=work.load_s)
            engine_id = f"{work.chunk.id}/{request.id}"
            completion = await generation.generate(resident.engine, request, engine_id=engine_id, share=share)
        resident.speeds.answered(completion.completion_tokens, completion.engine_s, online=False)
        self._reporter.finish(work.chunk.id, completion)

    async def _is_ours(self, work: _Work) -> bool:
        """Whether the claim holds: as of lately, or looked at now. One that is lost is not spoken of any more."""
        async with work.claiming:
            now_s = time.monotonic()
            if now_s - work.claimed_s < CLAIM_FRESH_S:
                return True
            if await self._broker.claim(work.chunk.id, work.holder):
                work.claimed_s = now_s
                return True
        log.warning("chunk %d is another's, or was given up: dropped", work.chunk.id)
        self._reporter.release(work.chunk.id)
        return False

    def _watch(self, work: _Work) -> Callable[[], None]:
        """Have units aborted when they, or their run, are cancelled."""

        def cancel(request_id: str) -> None:
            unit = work.units.get(request_id)
            if request_id not in work.cancelled and (unit is None or unit.cancel()):
                work.cancelled.add(request_id)
                share = work.running.get(request_id)
                aborted = generation.aborted(request_id, "cancelled", share, load_s=work.load_s)
                self._reporter.finish(work.chunk.id, aborted)
            if not work.units and len(work.cancelled) == len(work.chunk.requests):
                work.task.cancel()  # nobody is left who would need the model

        def cancel_run() -> None:
            for request in work.chunk.requests:
                cancel(request.id)

        ends = [self._cancels.watch(f"run:{work.chunk.run_id}", cancel_run)]
        for request in work.chunk.requests:
            ends.append(self._cancels.watch(request.id, functools.partial(cancel, request.id)))

        def unwatch() -> None:
            for end in ends:
                end()

        return unwatch


async def _cancel_all(tasks: "Iterable[asyncio.Task[None]]") -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
