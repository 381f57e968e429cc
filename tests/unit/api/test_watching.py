"""Watchers of a run share its readings."""

import asyncio
import threading
from typing import Any

import pytest

from api import watching
from api.watching import Watching


async def test_many_watchers_of_a_run_read_it_once_and_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    let_go = threading.Event()

    def read(run_id: str) -> dict[str, Any]:
        asked.append(run_id)
        assert let_go.wait(5)
        return {"run": run_id, "number": len(asked)}

    watched = Watching(read)
    watchers = [asyncio.create_task(watched.read(run)) for run in ("a", "a", "b", "a")]
    await asyncio.sleep(0)
    watchers[0].cancel()
    let_go.set()
    seen = await asyncio.gather(*watchers[1:])
    assert [each["run"] for each in seen] == ["a", "b", "a"]
    assert sorted(asked) == ["a", "b"]
    monkeypatch.setattr(watching, "READ_S", 0.0)
    await watched.read("a")
    assert sorted(asked) == ["a", "a", "b"]


async def test_a_reading_that_failed_is_told_to_all_who_waited_for_it_and_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results: list[Any] = [LookupError("no such run"), {"run": "a"}]

    def read(_: str) -> dict[str, Any]:
        if isinstance(result := results.pop(0), Exception):
            raise result
        return dict(result)

    watched = Watching(read)
    told = await asyncio.gather(watched.read("a"), watched.read("a"), return_exceptions=True)
    assert [str(each) for each in told] == ["no such run", "no such run"]
    monkeypatch.setattr(watching, "READ_S", 0.0)
    assert await watched.read("a") == {"run": "a"}
