"""Prompts on their way into an engine."""

import asyncio

from workers.engines.prefill_gate import ACTIVE_S, PrefillGate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def given(gate: PrefillGate, *sizes: int) -> "list[asyncio.Task[None]]":
    tasks = [asyncio.create_task(gate.bulk(size)) for size in sizes]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def settle(tasks: "list[asyncio.Task[None]]") -> list[bool]:
    for _ in range(10):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_without_queries_all_prompts_go_in_at_once() -> None:
    gate = PrefillGate(64, Clock())
    assert await settle(await given(gate, 500, 500, 500)) == [True, True, True]


async def test_while_queries_are_about_each_step_gets_what_fits_into_it() -> None:
    gate = PrefillGate(64, Clock())
    gate.query(40)
    tasks = await given(gate, 30, 30, 30)
    assert await settle(tasks) == [False, False, False]
    gate.step(0)  # the step that ran when the query came
    assert await settle(tasks) == [True, True, False]
    gate.step(40)
    assert await settle(tasks) == [True, True, True]


async def test_no_more_lies_ahead_than_two_steps_take() -> None:
    gate = PrefillGate(64, Clock())
    gate.query(60)
    tasks = await given(gate, 60, 60)
    gate.step(0)
    gate.step(0)
    assert await settle(tasks) == [True, False]
    gate.step(60)
    assert await settle(tasks) == [True, True]


async def test_a_prompt_that_is_longer_than_any_step_goes_alone() -> None:
    gate = PrefillGate(64, Clock())
    gate.query(10)
    tasks = await given(gate, 500, 10)
    gate.step(0)
    assert await settle(tasks) == [False, False]
    gate.step(10)
    assert await settle(tasks) == [True, False]
    gate.step(500)
    assert await settle(tasks) == [True, True]


async def test_the_gate_opens_some_time_after_the_last_query() -> None:
    clock = Clock()
    gate = PrefillGate(64, clock)
    gate.query(60)
    tasks = await given(gate, 50)
    assert await settle(tasks) == [False]
    clock.now += ACTIVE_S
    tasks += await given(gate, 50)
    assert await settle(tasks) == [True, True]


async def test_a_prompt_that_is_given_up_holds_nobody_up() -> None:
    gate = PrefillGate(64, Clock())
    gate.query(60)
    first, second = await given(gate, 50, 20)
    first.cancel()
    gate.step(60)
    assert await settle([first, second]) == [True, True]
    assert first.cancelled()
    assert not second.cancelled()
