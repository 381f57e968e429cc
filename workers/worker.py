"""One worker: everything that lives on its event loop, wired together."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine
from typing import Any

from workers import device
from workers.admission import Admission
from workers.broker import Broker
from workers.bulk import BulkDesk
from workers.cancels import Cancels
from workers.engines import catalogue
from workers.load_marks import LoadMarks
from workers.loader import Loader
from workers.messages import Chunk, Load, LoadEvent, OnlineRequest, Prefetch, WorkerState
from workers.meter import Meter
from workers.online import OnlineDesk
from workers.prefetch import Prefetcher
from workers.progress import Reporter
from workers.replies import Replies
from workers.residency import Residency
from workers.settings import WorkerSettings

DIED_LOADING = "the worker died while it loaded this"
LAST_FLUSH_S = 5.0
"""How long a worker that ends tries to publish its last news."""
log = logging.getLogger(__name__)


class Worker:
    """Takes chunks, online requests and loads; all of it must be called on one event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._started_at = time.time()
        self._draining = False
        self.lost: str | None = None
        """Why its device is gone: it takes on nothing more, and ends."""
        self._drained = asyncio.Event()
        self._broker = Broker(settings.redis_url)
        self._cancels = Cancels(self._broker)
        self._replies = Replies(self._broker)
        self._reporter = Reporter(self._broker, self.state)
        self._marks = LoadMarks(settings.data_dir, settings.name)
        for key in self._marks.take_left():
            log.error("in its former life this worker died while it loaded %s", key)
            died = LoadEvent(model_key=key, seconds=0.0, error=DIED_LOADING, fault="engine", worker_died=True)
            self._reporter.load(died)
        self._meter = Meter(full=settings.full_sequences)
        self._prefetcher = Prefetcher(settings.data_dir, is_at_hand=lambda key: self._residency.is_at_hand(key))
        self._residency = Residency(
            loader=Loader(
                lambda model, whole: catalogue.open_engine(model, settings, whole=whole),
                sleep_bytes=settings.sleep_bytes,
            ),
            capacity=settings.capacity,
            is_divided=settings.device.startswith("cuda"),
            meter=self._meter,
            new_admission=lambda: Admission(
                bulk=settings.sequences,
                online=settings.online_slots,
                bulk_beside_online=settings.bulk_limit_beside_online,
            ),
            mark=self._marks.mark,
            on_load=self._reporter.load,
            on_speeds=self._reporter.speeds,
            on_wait=self._prefetcher.begin,
            on_change=self._reporter.changed,
            look_at_device=lambda: device.lost(settings.device),
            on_lost=self._lose_device,
        )
        self._bulk = BulkDesk(
            worker=settings.name,
            broker=self._broker,
            cancels=self._cancels,
            reporter=self._reporter,
            residency=self._residency,
        )
        self._online = OnlineDesk(cancels=self._cancels, replies=self._replies, residency=self._residency)

    def state(self) -> WorkerState:
        """The worker as it is now."""
        loading = self._residency.loading_keys
        return WorkerState(
            worker=self._settings.name,
            at=time.time(),
            started_at=self._started_at,
            device=self._settings.device,
            engines=self._settings.engines,
            resident=self._residency.resident_keys,
            asleep=self._residency.asleep_keys,
            whole=self._residency.whole_keys,
            busy_s=round(self._meter.busy_s(), 6),
            loading=loading[0] if loading else None,
            also_loading=loading[1:],
            residents=self._settings.capacity,
            bulk_slots=self._settings.bulk_slots,
            online_slots=self._settings.online_slots,
            online_running=self._online.running,
            draining=self._draining or self.lost is not None,
        )

    async def run(self) -> None:
        """Publish, watch and send replies until drained. A loop that fails brings the worker down: it must not limp."""
        loops: list[asyncio.Task[None]] = [
            asyncio.create_task(_named(each, name))
            for name, each in (
                ("progress", self._reporter.run()),
                ("cancels", self._cancels.run()),
                ("replies", self._replies.run()),
                ("residency", self._residency.watch()),
            )
        ]
        end = asyncio.create_task(self._drained.wait())
        try:
            await asyncio.wait([*loops, end], return_when=asyncio.FIRST_COMPLETED)
            for task in loops:
                if task.done():
                    await task
        finally:
            end.cancel()
            for task in loops:
                task.cancel()
            await asyncio.wait(loops)
        await self._close()

    async def bulk(self, chunk: Chunk) -> None:
        """Work off one chunk; returns when nothing of it is left."""
        await self._bulk.run(chunk)

    async def online(self, request: OnlineRequest) -> None:
        self._online.take(self._broker.by_our_clock(request))

    async def load(self, load: Load) -> None:
        self._online.load(load)

    async def prefetch(self, prefetch: Prefetch) -> None:
        self._prefetcher.begin(prefetch.model)

    async def drain(self) -> None:
        """Take on nothing more, let what runs end within `drain_s`, hand the rest back."""
        if self._draining:
            return
        self._draining = True
        self._marks.close()
        self._reporter.changed()
        log.info("draining: running requests have %.0f s", self._settings.drain_s)
        await asyncio.gather(self._bulk.drain(self._settings.drain_s), self._online.drain(self._settings.drain_s))

    async def stop(self) -> None:
        """Drain, publish the last news, and let `run` end."""
        await self.drain()
        self._drained.set()

    def _lose_device(self, why: str) -> None:
        """End as if told to: others take the work, and whoever starts workers finds out whether the device is back."""
        if self.lost is None:
            log.critical("this worker ends: %s", why)
            self.lost = why
            self._bulk.stop_taking()
            os.kill(os.getpid(), signal.SIGTERM)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                while not (await self._replies.flush() and await self._reporter.flush()):  # noqa: ASYNC110  a retry
                    await asyncio.sleep(0.2)
                await self._broker.withdraw(self._settings.name)
        except Exception as error:  # the lease tells the orchestrator in the end
            log.warning("the last news were not sent: %s", error)
        await self._prefetcher.close()
        await self._residency.close()
        await self._broker.close()


async def _named(loop: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await loop
    except Exception:
        log.exception("the worker's %s loop failed", name)
        raise
