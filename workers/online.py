"""Answers online requests, and loads models that are asked for ahead."""

import asyncio
import logging
import time
from collections import OrderedDict

from workers import generation
from workers.cancels import Cancels
from workers.engines.engine import EngineError, GenerationError
from workers.messages import Completion, Delta, Load, OnlineRequest
from workers.meter import Share
from workers.replies import Replies
from workers.residency import Residency

LOAD_HOLD_S = 3.0
"""A model loaded on demand stays for so long even if nobody uses it: those who asked for it are on their way."""
REMEMBERED_IDS = 10_000
"""Ids of past requests kept, so that a message that comes twice is answered once."""
log = logging.getLogger(__name__)


class OnlineDesk:
    """Answers each request on its reply stream: text as it comes, the completion last, within its deadline."""

    def __init__(self, *, cancels: Cancels, replies: Replies, residency: Residency) -> None:
        self._cancels = cancels
        self._replies = replies
        self._residency = residency
        self._answers: dict[str, asyncio.Task[Completion]] = {}
        self._shares: dict[str, Share] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._draining = False

    @property
    def running(self) -> int:
        """Online requests held, waiting or in the engine."""
        return len(self._answers)

    def take(self, online: OnlineRequest) -> None:
        """Begin to answer, and return at once: a query that waits must not hold a thread."""
        if online.request.id in self._seen:
            log.warning("online request %s came twice: dropped", online.request.id)
            return
        self._seen[online.request.id] = None
        if len(self._seen) > REMEMBERED_IDS:
            self._seen.popitem(last=False)
        self._keep(asyncio.create_task(self._serve(online)))

    def load(self, load: Load) -> None:
        """Begin to make a model resident, and return at once."""
        self._keep(asyncio.create_task(self._load(load)))

    async def drain(self, timeout_s: float) -> None:
        """Let running answers end, for `timeout_s` at most; the rest fail with fault engine."""
        self._draining = True
        if self._answers:
            await asyncio.wait(list(self._answers.values()), timeout=timeout_s)
        for task in list(self._answers.values()):
            task.cancel("the worker is stopping")
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=1.0)

    async def _serve(self, online: OnlineRequest) -> None:
        request_id, deadline_s = online.request.id, online.deadline_s
        if self._draining:
            completion = generation.failed(request_id, EngineError("the worker is stopping"))
        elif deadline_s <= time.time():
            completion = generation.aborted(request_id, "its deadline had passed before it was begun")
        else:
            completion = await self._complete(online)
        self._replies.put(request_id, Delta(completion=completion), deadline_s=deadline_s)

    async def _complete(self, online: OnlineRequest) -> Completion:
        request_id = online.request.id
        answer = asyncio.create_task(self._generate(online))
        self._answers[request_id] = answer
        unwatch = self._cancels.watch(request_id, answer.cancel)
        try:
            await self._cancels.check()
            done, _ = await asyncio.wait([answer], timeout=max(0.0, online.deadline_s - time.time()))
            if not done:
                answer.cancel()
                await asyncio.wait([answer])
                return generation.aborted(request_id, "its deadline passed", self._shares.get(request_id))
            if answer.cancelled():
                stopping = EngineError("the worker is stopping")
                return (
                    generation.failed(request_id, stopping)
                    if self._draining
                    else generation.aborted(request_id, "cancelled", self._shares.get(request_id))
                )
            return answer.result()
        finally:
            unwatch()
            del self._answers[request_id]
            self._shares.pop(request_id, None)

    async def _generate(self, online: OnlineRequest) -> Completion:
        request = online.request

        def on_text(text: str) -> None:
            self._replies.put(request.id, Delta(text=text), deadline_s=online.deadline_s)

        try:
            async with (
                self._residency.use(online.model, online=True) as resident,
                resident.admission.online(),
            ):
                engine_id = f"online/{request.id}"
                share = self._shares[request.id] = resident.account.begin(load_s=resident.account.pay_load())
                completion = await generation.generate(
                    resident.engine, request, engine_id=engine_id, share=share, on_text=on_text
                )
                resident.speeds.answered(completion.completion_tokens, completion.engine_s, online=True)
                return completion
        except GenerationError as error:
            return generation.failed(request.id, error)

    async def _load(self, load: Load) -> None:
        try:
            async with self._residency.use(load.model, online=True):
                await asyncio.sleep(LOAD_HOLD_S)
        except GenerationError as error:
            log.warning("load of %s: %s", load.model.source, error)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an online task failed", exc_info=error)
