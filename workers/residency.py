"""Keeps models resident: the one place of a worker that loads and evicts."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from workers import guard
from workers.admission import Admission
from workers.engines.engine import Engine, EngineError, GenerationError, ModelError
from workers.messages import LoadEvent, Model

CHECK_INTERVAL_S = 1.0
"""How often dead engines are looked for while nothing else happens."""
log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory, and how many use it."""

    model: Model
    engine: Engine
    admission: Admission
    """Places in the engine."""
    users: int = 0


@dataclass(eq=False, kw_only=True)
class _Wait:
    ticket: guard.Ticket
    model: Model
    chunk_id: int | None
    admitted: "asyncio.Future[Resident]"


class Residency:
    """Models in device memory. `use` waits for a model's turn, loads it if need be, and holds it in place."""

    def __init__(
        self,
        *,
        open_engine: Callable[[Model], Engine],
        capacity: int | None,
        new_admission: Callable[[], Admission],
        on_load: Callable[[LoadEvent], None],
        on_change: Callable[[], None],
    ) -> None:
        """`capacity`: models at once, None for any number. `new_admission` makes the places of one engine.

        `on_load` hears of each load, `on_change` of any news.
        """
        self._open_engine = open_engine
        self._capacity = capacity
        self._new_admission = new_admission
        self._on_load = on_load
        self._on_change = on_change
        self._numbers = itertools.count()
        self._waiting: list[_Wait] = []
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def resident_keys(self) -> tuple[str, ...]:
        return tuple(key for key, resident in self._residents.items() if resident.engine.died is None)

    @property
    def loading_key(self) -> str | None:
        return next(iter(self._loading), None)

    @contextlib.asynccontextmanager
    async def use(self, model: Model, *, online: bool, chunk_id: int | None = None) -> AsyncIterator[Resident]:
        """Wait for the model to be resident and keep it so inside. Raises ModelError or EngineError if it cannot be."""
        ticket = guard.Ticket(number=next(self._numbers), model_key=model.key, online=online, since_s=time.monotonic())
        wait = _Wait(ticket=ticket, model=model, chunk_id=chunk_id, admitted=asyncio.Future())
        self._waiting.append(wait)
        resident: Resident | None = None
        try:
            self._settle()
            resident = await wait.admitted
            yield resident
        finally:
            if wait in self._waiting:
                self._waiting.remove(wait)
            elif resident is None and wait.admitted.done() and not wait.admitted.cancelled():
                # Cancelled between being let in and waking up.
                resident = wait.admitted.result() if wait.admitted.exception() is None else None
            if resident is not None:
                resident.users -= 1
            self._settle()

    async def watch(self) -> None:
        """Look after engines that die while nobody uses them, and after tickets whose patience ends. Runs for ever."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._settle()

    async def close(self) -> None:
        """Stop loads and close every engine."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for key in list(self._residents):
            self._drop(key)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _settle(self) -> None:
        """Do what the guard decides, now that something changed."""
        for key, resident in list(self._residents.items()):
            if resident.engine.died is not None:
                log.warning("model %s left memory: %s", resident.model.source, resident.engine.died)
                self._drop(key)
        decision = guard.decide(
            waiting=[wait.ticket for wait in self._waiting],
            resident={key: resident.users for key, resident in self._residents.items()},
            loading=self._loading.keys(),
            capacity=self._capacity,
            now_s=time.monotonic(),
        )
        for ticket in decision.admit:
            self._admit(next(wait for wait in self._waiting if wait.ticket is ticket))
        evictions = [self._drop(key) for key in decision.evict]
        for key in decision.load:
            first = next(wait for wait in self._waiting if wait.ticket.model_key == key)
            self._loading[key] = asyncio.create_task(self._load(first.model, first.chunk_id, evictions))
        if decision.load:
            self._on_change()

    def _admit(self, wait: _Wait) -> None:
        self._waiting.remove(wait)
        if wait.admitted.done():  # its task was cancelled
            return
        key = wait.ticket.model_key
        resident = self._residents.pop(key)
        self._residents[key] = resident  # most recently used last
        resident.users += 1
        wait.admitted.set_result(resident)

    def _drop(self, key: str) -> "asyncio.Task[None]":
        """Take a model out of the list now and close its engine in the background."""
        resident = self._residents.pop(key)
        task = asyncio.create_task(resident.engine.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._on_change()
        return task

    async def _load(self, model: Model, chunk_id: int | None, evictions: "list[asyncio.Task[None]]") -> None:
        await asyncio.gather(*evictions, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)  # a dead engine may still hold memory
        began = time.monotonic()
        log.info("loading %s", model.source)
        memory_bytes = 0
        failure: GenerationError | None = None
        engine: Engine | None = None
        try:
            engine = self._open_engine(model)
            memory_bytes = await engine.load()
        except GenerationError as error:
            failure = error
        except asyncio.CancelledError:
            failure = EngineError("the worker is stopping")
        except Exception as error:  # a fault of ours must not stop the worker
            log.exception("loading %s failed", model.source)
            failure = ModelError(f"{type(error).__name__}: {error}")
        if failure is not None and engine is not None:
            await engine.close()
        seconds = time.monotonic() - began
        self._loading.pop(model.key, None)
        self._on_load(
            LoadEvent(
                model_key=model.key,
                seconds=seconds,
                memory_bytes=memory_bytes,
                error=None if failure is None else str(failure),
                fault="model" if isinstance(failure, ModelError) else None if failure is None else "engine",
                chunk_id=chunk_id,
            )
        )
        waiting = [wait for wait in self._waiting if wait.ticket.model_key == model.key]
        if failure is not None or engine is None:
            log.error("loading %s failed after %.1f s: %s", model.source, seconds, failure)
            self._refuse(waiting, failure or ModelError("no engine"))
        else:
            log.info("loaded %s in %.1f s", model.source, seconds)
            self._residents[model.key] = Resident(model=model, engine=engine, admission=self._new_admission())
            # All who waited for this load come in together, or the next ticket in turn could evict it unused.
            for wait in waiting:
                self._admit(wait)
        self._settle()

    def _refuse(self, waiting: list[_Wait], failure: GenerationError) -> None:
        for wait in waiting:
            self._waiting.remove(wait)
            if not wait.admitted.done():
                wait.admitted.set_exception(type(failure)(str(failure)))
