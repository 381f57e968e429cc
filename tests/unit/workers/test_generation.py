"""Whatever an engine does, a request ends as a completion."""

import asyncio
from collections.abc import AsyncGenerator

from workers import generation
from workers.engines.stub import StubEngine
from workers.messages import ChatMessage, Completion, Delta, Model, Request
from workers.meter import Account, Meter


class Odd(StubEngine):
    """An engine with a fault of its own."""

    def __init__(self, *deltas: Delta) -> None:
        super().__init__(Model(source="stub:odd"))
        self._deltas = deltas

    async def generate(self, request: Request, *, stream: bool) -> AsyncGenerator[Delta, None]:
        for delta in self._deltas:
            yield delta
        if not self._deltas:
            raise ZeroDivisionError("odd")


def asked(text: str = "Hello") -> Request:
    return Request(id="u1", messages=(ChatMessage(role="user", content=text),))


async def completion_of(engine: StubEngine, request: Request) -> Completion:
    share = Account(Meter(), "a").begin(load_s=0.5)
    return await generation.generate(engine, request, engine_id="7/u1", share=share)


async def test_a_completion_bears_the_requests_own_id_and_its_time() -> None:
    completion = await completion_of(StubEngine(Model(source="stub:a?latency_s=0.01")), asked())
    assert completion.id == "u1"
    assert completion.engine_s >= completion.device_s >= 0.01
    assert completion.load_s == 0.5


async def test_errors_become_faults() -> None:
    stub = StubEngine(Model(source="stub:a"))
    assert (await completion_of(stub, asked("[stub:error]"))).fault == "request"
    assert (await completion_of(stub, asked("[stub:die]"))).fault == "engine"
    assert (await completion_of(Odd(), asked())).fault == "engine"
    assert (await completion_of(Odd(Delta(text="half")), asked())).fault == "engine"


async def test_text_that_no_store_could_hold_is_mended() -> None:
    choices = ({"message": {"content": "\ud800"}},)
    odd = Odd(Delta(completion=Completion(id="7/u1", text="a\0b\ud800", choices=choices)))
    completion = await completion_of(odd, asked())
    assert (completion.text, completion.choices[0]["message"]["content"]) == ("a\N{REPLACEMENT CHARACTER}b?", "?")


async def test_cancelling_leaves_nothing_running_in_the_engine() -> None:
    stub = StubEngine(Model(source="stub:a"))
    task = asyncio.create_task(completion_of(stub, asked("[stub:hang]")))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
