"""Loads and evictions as they happen, on stub engines."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from workers.admission import Admission
from workers.engines.engine import EngineError, ModelError
from workers.engines.stub import StubEngine
from workers.loader import Loader
from workers.messages import LoadEvent, MeasuredSpeed, Model
from workers.meter import Meter
from workers.residency import Residency

A, B = Model(source="stub:a"), Model(source="stub:b")


class Device:
    """A residency with all that happened on it. Models whose source says `large` need all of its places."""

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self.engines: list[StubEngine] = []
        self.loads: list[LoadEvent] = []
        self.waited: list[str] = []
        self.speeds: list[MeasuredSpeed] = []
        self.residency = Residency(
            loader=Loader(self._open, sleep_bytes=100, available_bytes=lambda: 1000),
            capacity=places,
            is_divided=places > 1,
            meter=Meter(),
            new_admission=lambda: Admission(bulk=4, online=1, bulk_beside_online=4),
            on_load=self.loads.append,
            on_speeds=self.speeds.extend,
            on_wait=lambda model: self.waited.append(model.key),
            on_change=lambda: None,
        )

    def _open(self, model: Model, whole: bool) -> StubEngine:
        if "large" in model.source and self._places > 1 and not whole:
            raise ModelError("out of memory")
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


async def test_all_loads_under_way_are_told() -> None:
    device = Device(places=2)
    using = [asyncio.create_task(device.use(model)) for model in (A, B)]
    await asyncio.sleep(0)
    told = device.residency.loading_keys
    assert told == (A.key, B.key)
    await asyncio.gather(*using)
    assert not device.residency.loading_keys
    await device.residency.close()


async def test_a_load_that_fails_fails_everyone_who_waits_for_it(device: Device) -> None:
    broken = Model(source="stub:broken?fail_load=no+disk&load_s=0.01")
    outcomes = await asyncio.gather(device.use(broken), device.use(broken), device.use(A), return_exceptions=True)
    assert [type(each) for each in outcomes] == [ModelError, ModelError, type(None)]
    assert [load.error for load in device.loads] == ["no disk", None]
    assert [load.fault for load in device.loads] == ["model", None]


async def test_a_model_too_large_for_its_part_of_the_device_gets_all_of_it() -> None:
    device, large = Device(places=2), Model(source="stub:large")
    await device.use(A)
    await device.use(B)
    await device.use(large)
    assert [*device.residency.resident_keys] == [*device.residency.whole_keys] == [large.key]
    assert [load.error for load in device.loads] == [None] * 3
    async with device.residency.use(large, online=False) as resident:
        assert resident.account.pay_load() > device.loads[-1].seconds  # the try that failed is paid for, too
        waiting = asyncio.create_task(device.use(A))
        await asyncio.sleep(0.01)
        assert [*device.residency.resident_keys] == [large.key]
    await waiting
    await device.use(B)
    assert [*device.residency.resident_keys] == [A.key, B.key]
    await device.residency.close()


async def test_a_model_that_cannot_be_loaded_at_all_is_refused_after_two_tries() -> None:
    device = Device(places=2)
    with pytest.raises(ModelError):
        await device.use(Model(source="stub:broken?fail_load=no+disk"))
    assert [load.error for load in device.loads] == ["no disk"]
    assert len(device.engines) == 2
    assert device.residency.whole_keys == ()
    await device.residency.close()


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


SLEEPY, DROWSY = Model(source="stub:a?sleep=1&memory_bytes=60"), Model(source="stub:b?sleep=1&memory_bytes=30")


async def test_an_evicted_model_that_can_sleep_wakes_instead_of_loading_anew(device: Device) -> None:
    for model in (SLEEPY, DROWSY, SLEEPY):
        await device.use(model)
    assert [(load.model_key, load.woken) for load in device.loads] == [
        (SLEEPY.key, False),
        (DROWSY.key, False),
        (SLEEPY.key, True),
    ]
    assert len(device.engines) == 2
    assert device.residency.asleep_keys == (DROWSY.key,)


@pytest.mark.parametrize(("wake", "why"), [("wrong", "canary"), ("fail", "did not wake up")])
async def test_an_engine_that_comes_back_wrong_is_loaded_anew(device: Device, wake: str, why: str) -> None:
    odd = Model(source=f"stub:odd?sleep=1&memory_bytes=1&wake={wake}")
    for model in (odd, B, odd):
        await device.use(model)
    again = device.loads[-1]
    assert (again.woken, again.error) == (False, None)
    assert why in (again.failed_wake or "")
    assert device.engines[0].died is not None
    assert device.residency.resident_keys == (odd.key,)


async def test_a_sleeper_that_died_is_loaded_anew(device: Device) -> None:
    await device.use(SLEEPY)
    await device.use(B)
    await device.engines[0].close()
    await device.use(SLEEPY)
    assert device.loads[-1].failed_wake is not None
    assert device.loads[-1].error is None


async def test_a_load_that_fails_beside_sleepers_is_tried_once_more_without_them(device: Device) -> None:
    await device.use(SLEEPY)
    with pytest.raises(ModelError):
        await device.use(Model(source="stub:broken?fail_load=out+of+memory"))
    assert device.residency.asleep_keys == ()
    assert len(device.engines) == 3
    assert len(device.loads) == 2


async def test_the_first_to_use_a_loaded_model_pays_for_the_load(device: Device) -> None:
    async with device.residency.use(A, online=True) as first:
        paid = first.account.pay_load()
    async with device.residency.use(A, online=False) as second:
        assert second.account.pay_load() == 0.0
    assert paid == device.loads[0].seconds


async def test_a_model_that_must_wait_its_turn_is_named_for_prefetching(device: Device) -> None:
    async with device.residency.use(A, online=False):
        waiting = asyncio.create_task(device.use(B))
        await asyncio.sleep(0)
        assert set(device.waited) == {B.key}
    await waiting
