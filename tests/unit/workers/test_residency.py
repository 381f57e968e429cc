"""Loads and evictions as they happen, on stub engines."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from workers.admission import Admission
from workers.engines.engine import EngineError, ModelError
from workers.engines.stub import StubEngine
from workers.messages import LoadEvent, Model
from workers.residency import Residency

A, B = Model(source="stub:a"), Model(source="stub:b")


class Device:
    """A residency of one model, with all that happened on it."""

    def __init__(self) -> None:
        self.engines: list[StubEngine] = []
        self.loads: list[LoadEvent] = []
        self.residency = Residency(
            open_engine=self._open,
            capacity=1,
            new_admission=lambda: Admission(bulk=4, online=1, bulk_beside_online=4),
            on_load=self.loads.append,
            on_change=lambda: None,
        )

    def _open(self, model: Model) -> StubEngine:
        self.engines.append(StubEngine(model))
        return self.engines[-1]

    async def use(self, model: Model, *, seconds: float = 0.0) -> None:
        async with self.residency.use(model, online=False):
            await asyncio.sleep(seconds)

    @property
    def loaded(self) -> list[str]:
        return [load.model_key for load in self.loads]


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    made = Device()
    yield made
    await made.residency.close()


async def test_waiting_work_is_grouped_so_that_each_model_loads_once(device: Device) -> None:
    first = asyncio.create_task(device.use(A, seconds=0.02))
    await asyncio.sleep(0.01)
    await asyncio.gather(first, *(device.use(model) for model in (B, A, B, A, B)))
    assert device.loaded == [A.key, B.key, A.key]


async def test_a_model_stays_while_it_is_used(device: Device) -> None:
    async with device.residency.use(A, online=False):
        other = asyncio.create_task(device.use(B))
        await asyncio.sleep(0.01)
        assert device.residency.resident_keys == (A.key,)
    await other
    assert device.residency.resident_keys == (B.key,)
    assert device.engines[0].died is not None


async def test_a_load_that_fails_fails_everyone_who_waits_for_it(device: Device) -> None:
    broken = Model(source="stub:broken?fail_load=no+disk&load_s=0.01")
    outcomes = await asyncio.gather(device.use(broken), device.use(broken), device.use(A), return_exceptions=True)
    assert [type(each) for each in outcomes] == [ModelError, ModelError, type(None)]
    assert [load.error for load in device.loads] == ["no disk", None]
    assert [load.fault for load in device.loads] == ["model", None]


async def test_a_dead_engine_is_replaced(device: Device) -> None:
    await device.use(A)
    await device.engines[0].close()
    await device.use(A)
    assert device.loaded == [A.key, A.key]


async def test_who_gives_up_waiting_leaves_no_trace(device: Device) -> None:
    async with device.residency.use(A, online=False):
        waiting = asyncio.create_task(device.use(B))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await device.use(A)
    assert device.loaded == [A.key]


async def test_who_gives_up_at_the_last_moment_does_not_hold_the_model(device: Device) -> None:
    waiting = asyncio.create_task(device.use(A, seconds=60))
    while not device.loads:  # noqa: ASYNC110  the very next step of the loop is what is wanted
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await device.use(B)
    assert device.loaded == [A.key, B.key]


async def test_closing_ends_a_load_that_runs(device: Device) -> None:
    slow = asyncio.create_task(device.use(Model(source="stub:slow?load_s=60")))
    await asyncio.sleep(0.01)
    await device.residency.close()
    with pytest.raises(EngineError):
        await slow
