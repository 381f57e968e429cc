"""Keeps models resident: the one place of a worker that decides when to load and to evict."""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from workers import guard
from workers.admission import Admission
from workers.engines.engine import Engine, EngineError, GenerationError, ModelError
from workers.loader import Loaded, Loader
from workers.messages import LoadEvent, MeasuredSpeed, Model
from workers.meter import Account, Meter
from workers.speeds import Speeds

CHECK_INTERVAL_S = 1.0
"""How often dead engines are looked for while nothing else happens."""
STAY_MIN_S, STAY_MAX_S = 5.0, 30.0
"""A model that was loaded works as long as its load took, but no less and no more than this, before a query that was
sent here for the model it replaced makes it go: the plan has queries in mind when it switches; this one crossed it."""
SPEEDS_INTERVAL_S = 5.0
"""How often measured speeds are told."""
log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory, and how many use it."""

    loaded: Loaded
    admission: Admission
    """Places in the engine."""
    account: Account
    speeds: Speeds
    stays_until_s: float
    users: int = 0

    @property
    def engine(self) -> Engine:
        return self.loaded.engine


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
        loader: Loader,
        capacity: int | None,
        is_divided: bool = False,
        meter: Meter,
        new_admission: Callable[[], Admission],
        mark: Callable[[str], contextlib.AbstractContextManager[None]] = lambda model_key: contextlib.nullcontext(),
        on_load: Callable[[LoadEvent], None],
        on_speeds: Callable[[Sequence[MeasuredSpeed]], None],
        on_wait: Callable[[Model], None],
        on_change: Callable[[], None],
        look_at_device: Callable[[], str | None] = lambda: None,
        on_lost: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`capacity`: models at once, None for any number. `is_divided`: each of several has a part of the device's
        memory, so that one may be too large for its part. `new_admission` makes the places of one engine.

        `meter` divides the device's time. A load happens inside `mark` of its model's key; `on_load` hears of it then,
        `on_speeds` now and then of what was measured, `on_wait` of a model that is needed and must wait until others
        have run dry, `on_change` of any news.
        `look_at_device` may take its time; it says why the device is lost, if it is, and then `on_lost` hears of it.
        """
        self._loader = loader
        self._capacity = capacity
        self._meter = meter
        self._new_admission = new_admission
        self._mark = mark
        self._on_load = on_load
        self._on_speeds = on_speeds
        self._on_wait = on_wait
        self._on_change = on_change
        self._look_at_device = look_at_device
        self._on_lost = on_lost
        self._is_divided = is_divided and (capacity or 1) > 1
        self._one_load: contextlib.AbstractAsyncContextManager[object] = (
            asyncio.Lock() if self._is_divided else contextlib.nullcontext()
        )
        """vLLM measures how much memory is free while it loads: nobody else may take any meanwhile."""
        self._whole: set[str] = set()
        self._vain_s: dict[str, float] = {}
        """Seconds of loads that failed for want of room, which the one that works is charged for."""
        self._speeds: dict[str, Speeds] = {}
        self._numbers = itertools.count()
        self._waiting: list[_Wait] = []
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def resident_keys(self) -> tuple[str, ...]:
        return tuple(key for key, resident in self._residents.items() if resident.engine.died is None)

    @property
    def asleep_keys(self) -> tuple[str, ...]:
        return self._loader.asleep_keys

    def is_at_hand(self, model_key: str) -> bool:
        """Whether the model is on the device, on its way there, or asleep: nobody need read its weights ahead."""
        return model_key in self._residents or model_key in self._loading or model_key in self.asleep_keys

    @property
    def whole_keys(self) -> tuple[str, ...]:
        """Models that could not be loaded into one place of several, and get the whole device."""
        return tuple(sorted(self._whole))

    @property
    def loading_keys(self) -> tuple[str, ...]:
        return tuple(self._loading)

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
        """Look after engines that die while nobody uses them, and after tickets whose patience ends; measure speeds.

        Runs for ever.
        """
        told_s = time.monotonic()
        news: dict[str, MeasuredSpeed] = {}
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._settle()
            news |= self._measure()
            if news and time.monotonic() - told_s >= SPEEDS_INTERVAL_S:
                self._on_speeds(tuple(news.values()))
                told_s, news = time.monotonic(), {}

    def _measure(self) -> dict[str, MeasuredSpeed]:
        """The speeds of models that worked since the last time."""
        found = {}
        for key, resident in self._residents.items():
            if resident.speeds.at(*resident.engine.computed, resident.account.busy_s, resident.account.full_s):
                speed = resident.speeds.speed
                if speed is not None:
                    found[key] = MeasuredSpeed(model_key=key, **dataclasses.asdict(speed))
        return found

    async def close(self) -> None:
        """Stop loads and close every engine."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for resident in self._residents.values():
            self._end(resident.engine.close())
        self._residents.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._loader.end_sleepers()

    def _settle(self) -> None:
        """Do what the guard decides, now that something changed."""
        for key, resident in list(self._residents.items()):
            if resident.engine.died is not None:
                log.warning("model %s left memory: %s", resident.loaded.model.source, resident.engine.died)
                self._drop(key)
        decision = guard.decide(
            waiting=[wait.ticket for wait in self._waiting],
            resident={key: resident.users for key, resident in self._residents.items()},
            loading=self._loading.keys(),
            capacity=self._capacity,
            whole=self._whole,
            fresh=[key for key, resident in self._residents.items() if time.monotonic() < resident.stays_until_s],
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
        far = next((wait.model for wait in self._waiting if not self.is_at_hand(wait.ticket.model_key)), None)
        if far is not None:
            self._on_wait(far)

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
        """Take a model out of the list now and off the device in the background."""
        task = self._end(self._loader.put_away(self._residents.pop(key).loaded))
        self._on_change()
        return task

    def _end(self, closing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _load(self, model: Model, chunk_id: int | None, evictions: "list[asyncio.Task[None]]") -> None:
        await asyncio.gather(*evictions, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)  # a dead engine may still hold memory
        is_whole = model.key in self._whole
        async with self._one_load:
            with self._mark(model.key):
                loaded, event = await self._loader.bring(model, whole=is_whole, chunk_id=chunk_id)
        lost = await asyncio.to_thread(self._look_at_device) if loaded is None else None
        self._loading.pop(model.key, None)
        waiting = [wait for wait in self._waiting if wait.ticket.model_key == model.key]
        if lost is not None:  # neither the model's fault nor its engine's: nothing is told of this load
            self._on_lost(lost)
            self._refuse(waiting, EngineError(lost))
            self._settle()
            return
        if event.fault == "model" and self._is_divided and not is_whole and waiting:
            log.warning("%s is tried once more with the whole device: one place may be too small", model.source)
            self._whole.add(model.key)
            self._vain_s[model.key] = event.seconds
            self._settle()
            return
        self._on_load(event)
        vain_s = self._vain_s.pop(model.key, 0.0)
        if loaded is None:
            self._whole.discard(model.key)
            failure = ModelError if event.fault == "model" else EngineError
            self._refuse(waiting, failure(event.error or "no engine"))
        else:
            self._residents[model.key] = resident = self._resident(loaded, event.seconds)
            resident.account.owe(event.seconds + vain_s)
            # All who waited for this load come in together, or the next ticket in turn could evict it unused.
            for wait in waiting:
                self._admit(wait)
        self._settle()

    def _resident(self, loaded: Loaded, load_s: float) -> Resident:
        key, has_device = loaded.model.key, loaded.model.engine != "remote"
        account = Account(self._meter if has_device else Meter(full=self._meter.full), key, has_device=has_device)
        speeds = self._speeds.setdefault(key, Speeds())
        speeds.begin(*loaded.engine.computed, account.busy_s, account.full_s)
        stays_until_s = time.monotonic() + min(max(load_s, STAY_MIN_S), STAY_MAX_S)
        return Resident(
            loaded=loaded,
            admission=self._new_admission(),
            account=account,
            speeds=speeds,
            stays_until_s=stays_until_s,
        )

    def _refuse(self, waiting: list[_Wait], failure: GenerationError) -> None:
        for wait in waiting:
            self._waiting.remove(wait)
            if not wait.admitted.done():
                wait.admitted.set_exception(type(failure)(str(failure)))
