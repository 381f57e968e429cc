import asyncio
import contextlib

from workers.admission import Admission


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Bulk requests that stay until they are told to go."""

    def __init__(self, admission: Admission, count: int) -> None:
        self.inside = 0
        self._leave = asyncio.Event()
        self.tasks = [asyncio.create_task(self._one(admission)) for _ in range(count)]

    async def _one(self, admission: Admission) -> None:
        async with admission.bulk():
            self.inside += 1
            await self._leave.wait()
            self.inside -= 1

    async def leave(self) -> None:
        self._leave.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_bulk_fills_its_places_and_no_more() -> None:
    crowd = Crowd(Admission(bulk=3, online=1, bulk_beside_online=1), 5)
    await settle()
    assert crowd.inside == 3
    await crowd.leave()


async def test_new_bulk_gives_way_while_a_query_runs_and_comes_back_after_it() -> None:
    admission = Admission(bulk=3, online=1, bulk_beside_online=1)
    async with admission.online():
        crowd = Crowd(admission, 5)
        await settle()
        assert crowd.inside == 1
    await settle()
    assert crowd.inside == 3
    await crowd.leave()


async def test_a_query_finds_its_place_however_much_bulk_there_is() -> None:
    admission = Admission(bulk=2, online=1, bulk_beside_online=1)
    crowd = Crowd(admission, 10)
    await settle()
    async with asyncio.timeout(1), admission.online():
        pass
    await crowd.leave()


async def test_who_is_cancelled_leaves_no_place_taken() -> None:
    admission = Admission(bulk=1, online=1, bulk_beside_online=1)
    crowd = Crowd(admission, 3)
    await settle()
    for task in crowd.tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*crowd.tasks)
    async with asyncio.timeout(1), admission.bulk():
        pass
