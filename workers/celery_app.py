"""The Celery side of a worker: its app, its four tasks, and the thread that its event loop lives in."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import celery
from celery import signals
from kombu.entity import Queue
from pydantic import ValidationError

from workers import messages
from workers.messages import Chunk, Load, OnlineRequest, Prefetch, Value
from workers.settings import WorkerSettings
from workers.worker import Worker

POLL_INTERVAL_S = 0.05
"""A consumer that is cancelled otherwise blocks up to a second."""
EXIT_LOOP_FAILED = 70
EXIT_DEVICE_LOST = 69
log = logging.getLogger(__name__)
V = TypeVar("V", bound=Value)


class LoopThread:
    """The event loop that owns the engine, in a thread of its own. If it fails, so does the process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="engine-loop")
        self.loop: asyncio.AbstractEventLoop
        self.worker: Worker

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on the loop and wait for the end, from another thread."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on the loop without waiting; safe in a signal handler."""
        asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """Drain the worker and wait for its thread."""
        self.begin(self.worker.stop())
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException:
            # Celery would go on taking tasks for an engine that is gone; the supervisor starts us anew.
            log.exception("the event loop failed: exiting")
            logging.shutdown()
            os._exit(EXIT_LOOP_FAILED)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.worker = Worker(self._settings)
        self._ready.set()
        await self.worker.run()


def create(settings: WorkerSettings, thread: LoopThread) -> celery.Celery:
    """The Celery app of one worker. `thread` must be started before the app's worker is."""
    queues = (messages.bulk_queue(settings.name), messages.online_queue(settings.name))
    app = celery.Celery("muster-worker", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_create_missing_queues=False,
        task_queues=[Queue(name) for name in queues],  # type: ignore[no-untyped-call]  # kombu has no types
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": messages.VISIBILITY_TIMEOUT_S,
            "priority_steps": [0],
            "polling_interval": POLL_INTERVAL_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )

    def bulk(payload: str | dict[str, Any]) -> None:
        _take(Chunk, payload, lambda chunk: thread.call(thread.worker.bulk(chunk)))

    def online(payload: str | dict[str, Any]) -> None:
        _take(OnlineRequest, payload, lambda request: thread.call(thread.worker.online(request)))

    def load(payload: str | dict[str, Any]) -> None:
        _take(Load, payload, lambda wanted: thread.call(thread.worker.load(wanted)))

    def prefetch(payload: str | dict[str, Any]) -> None:
        _take(Prefetch, payload, lambda wanted: thread.call(thread.worker.prefetch(wanted)))

    app.task(name=messages.BULK_TASK)(bulk)
    app.task(name=messages.ONLINE_TASK)(online)
    app.task(name=messages.LOAD_TASK)(load)
    app.task(name=messages.PREFETCH_TASK)(prefetch)
    return app


def run(settings: WorkerSettings) -> int:
    """Be a worker until SIGTERM or SIGINT, or until its device is lost; returns the exit status."""
    thread = LoopThread(settings)
    app = create(settings, thread)

    def drain(**_: object) -> None:
        thread.begin(thread.worker.drain())

    # Celery takes no new messages from here on, and waits for the tasks that drain() brings to their end.
    signals.worker_shutting_down.connect(drain)
    celery_worker = app.Worker(
        hostname=f"{settings.name}@muster",
        pool_cls="threads",
        concurrency=settings.bulk_slots + settings.online_slots,
        queues=[queue.name for queue in app.conf.task_queues],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
        quiet=True,
    )
    thread.start()
    try:
        celery_worker.start()
    finally:
        thread.stop()
    return EXIT_DEVICE_LOST if thread.worker.lost is not None else int(celery_worker.exitcode or 0)


def _take(kind: type[V], payload: str | dict[str, Any], use: Callable[[V], None]) -> None:
    """Read a message. One that cannot be read is dropped: sent again it would read no better."""
    try:
        value = kind.model_validate_json(payload) if isinstance(payload, str) else kind.model_validate(payload)
    except ValidationError as error:
        log.error("a message that is no %s was dropped: %s", kind.__name__, error)
        return
    use(value)
