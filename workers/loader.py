"""Brings engines onto the device and takes them off it: loads, puts to sleep in host memory, wakes, closes."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers import canary
from workers.engines.engine import Engine, EngineError, GenerationError, ModelError
from workers.messages import LoadEvent, Model

HOST_SHARE = 0.5
"""Of the memory that the host has available, one more sleeping engine may take so much."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine on the device, and what it said to the canary prompt (None: it was not asked, and never sleeps)."""

    model: Model
    engine: Engine
    song: str | None = None


class Loader:
    """One device's engines, but for those that work; the sleeping ones, least recently used first."""

    def __init__(
        self,
        open_engine: Callable[[Model, bool], Engine],
        *,
        sleep_bytes: int,
        available_bytes: Callable[[], int] | None = None,
    ) -> None:
        """`open_engine(model, whole)`: an engine for a place of the device, or for the whole of it.

        `sleep_bytes`: host memory that sleeping engines may take. `available_bytes`: what the host has left.
        """
        self._open_engine = open_engine
        self._sleep_bytes = sleep_bytes
        self._available_bytes = available_bytes or host_available_bytes
        self._asleep: dict[str, Loaded] = {}
        self._going_to_sleep = asyncio.Lock()

    @property
    def asleep_keys(self) -> tuple[str, ...]:
        """Models that only have to wake up."""
        return tuple(key for key, loaded in self._asleep.items() if loaded.engine.died is None)

    async def bring(
        self, model: Model, *, whole: bool = False, chunk_id: int | None = None
    ) -> tuple[Loaded | None, LoadEvent]:
        """The model on the device, woken if it sleeps, else loaded; None if that failed, for the event's reason.

        `whole`: it gets the device to itself.
        """
        began = time.monotonic()
        failed_wake: str | None = None
        sleeping = self._asleep.pop(model.key, None)
        if sleeping is not None:
            try:
                failed_wake = await _wake(sleeping)
            except asyncio.CancelledError:
                await sleeping.engine.close()
                return None, _event(model, began, chunk_id, failure=EngineError("the worker is stopping"))
            if failed_wake is None:
                log.info("woke %s in %.1f s", model.source, time.monotonic() - began)
                return sleeping, _event(model, began, chunk_id, woken=True)
            log.error("%s is loaded anew: %s", model.source, failed_wake)
            await sleeping.engine.close()
        log.info("loading %s", model.source)
        loaded, memory_bytes, failure = await self._load(model, whole)
        if loaded is None and failure is not None and self._asleep:
            # Engines that sleep still hold a little of the device's memory, and much of the host's.
            log.warning(
                "loading %s failed beside sleeping engines: ending them, and once more: %s", model.source, failure
            )
            await self.end_sleepers()
            loaded, memory_bytes, failure = await self._load(model, whole)
        event = _event(model, began, chunk_id, memory_bytes=memory_bytes, failed_wake=failed_wake, failure=failure)
        if failure is not None:
            log.error("loading %s failed after %.1f s: %s", model.source, event.seconds, failure)
        else:
            log.info("loaded %s in %.1f s", model.source, event.seconds)
        return loaded, event

    async def put_away(self, loaded: Loaded) -> None:
        """Off the device: to sleep if it can and there is room in the host's memory, else to its end."""
        async with self._going_to_sleep:  # two at once would both count on the same room
            if not await self._sleep(loaded):
                await loaded.engine.close()

    async def _sleep(self, loaded: Loaded) -> bool:
        engine = loaded.engine
        if engine.died is None and loaded.song is not None and await self._make_room(engine.sleep_bytes):
            began = time.monotonic()
            try:
                await engine.sleep()
            except EngineError as error:
                log.error("%s did not fall asleep: %s", loaded.model.source, error)
            else:
                log.info("%s fell asleep in %.1f s", loaded.model.source, time.monotonic() - began)
                self._asleep[loaded.model.key] = loaded
                return True
        return False

    async def end_sleepers(self) -> None:
        """Close every sleeping engine."""
        sleepers, self._asleep = list(self._asleep.values()), {}
        await asyncio.gather(*(loaded.engine.close() for loaded in sleepers))

    async def _make_room(self, needed: int | None) -> bool:
        """Close the sleepers that have to go; False, and none closed, if it does not fit even so."""
        if needed is None:
            return False
        sizes = {key: loaded.engine.sleep_bytes or 0 for key, loaded in self._asleep.items()}
        leaving = who_must_go(sizes, needed, limit=self._sleep_bytes, available=self._available_bytes())
        if leaving is None:
            return False
        await asyncio.gather(*(self._asleep.pop(key).engine.close() for key in leaving))
        return True

    async def _load(self, model: Model, whole: bool) -> tuple[Loaded | None, int, GenerationError | None]:
        engine: Engine | None = None
        failure: GenerationError
        try:
            engine = self._open_engine(model, whole)
            memory_bytes = await engine.load()
            song = None if engine.sleep_bytes is None else await canary.sing(engine)
            return Loaded(model=model, engine=engine, song=song), memory_bytes, None
        except GenerationError as error:
            failure = error
        except asyncio.CancelledError:
            failure = EngineError("the worker is stopping")
        except Exception as error:  # a fault of ours must not stop the worker
            log.exception("loading %s failed", model.source)
            failure = ModelError(f"{type(error).__name__}: {error}")
        if engine is not None:
            await engine.close()
        return None, 0, failure


async def _wake(loaded: Loaded) -> str | None:
    """None if the engine is awake and says what it said before it first slept; else what is wrong with it."""
    try:
        await loaded.engine.wake()
        song = await canary.sing(loaded.engine)
    except GenerationError as error:
        return f"it did not wake up: {error}"
    if song != loaded.song:
        return f"after waking up it answered the canary prompt with {song!r}, not with {loaded.song!r}"
    return None


def who_must_go(sizes: Mapping[str, int], needed: int, *, limit: int, available: int) -> list[str] | None:
    """Which sleepers (key -> bytes, least recently used first) must end so that `needed` bytes fit; None: they cannot.

    Sleepers take no more than `limit` together, and a new one no more than `HOST_SHARE` of what the host then has
    available. All in bytes.
    """
    leaving: list[str] = []
    held, free = sum(sizes.values()), available
    waiting = iter(sizes.items())
    while held + needed > limit or needed > HOST_SHARE * free:
        key, size = next(waiting, (None, 0))
        if key is None:
            return None
        leaving.append(key)
        held, free = held - size, free + size
    return leaving


def host_available_bytes() -> int:
    """Memory that the host can give without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _event(
    model: Model,
    began: float,
    chunk_id: int | None,
    *,
    woken: bool = False,
    memory_bytes: int = 0,
    failed_wake: str | None = None,
    failure: GenerationError | None = None,
) -> LoadEvent:
    return LoadEvent(
        model_key=model.key,
        seconds=time.monotonic() - began,
        memory_bytes=memory_bytes,
        woken=woken,
        failed_wake=failed_wake,
        error=None if failure is None else str(failure),
        fault=None if failure is None else "model" if failure.fault == "model" else "engine",
        chunk_id=chunk_id,
    )
