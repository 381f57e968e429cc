"""Progress is told once, in order, and kept while nobody listens."""

import time

from workers.messages import Completion, LoadEvent, Progress, WorkerState
from workers.progress import MESSAGE_COMPLETIONS, Reporter


class Listener:
    """A broker that can be away."""

    def __init__(self) -> None:
        self.heard: list[Progress] = []
        self.away = False

    async def publish(self, progress: Progress, *, sequence: str) -> None:
        if self.away:
            raise ConnectionError("away")
        self.heard.append(progress)


def state() -> WorkerState:
    return WorkerState(worker="w", at=time.time(), device="none", engines=("stub",))


def finished(listener: Listener) -> list[str]:
    return [each.completion.id for progress in listener.heard for each in progress.finished]


async def test_news_is_told_once() -> None:
    listener = Listener()
    reporter = Reporter(listener, state)
    reporter.hold(1)
    reporter.finish(1, Completion(id="u1"))
    reporter.load(LoadEvent(model_key="m", seconds=1.0))
    await reporter.flush()
    await reporter.flush()
    assert finished(listener) == ["u1"]
    assert [len(progress.loads) for progress in listener.heard] == [1, 0]
    assert listener.heard[-1].chunks == (1,)


async def test_chunks_that_were_begun_are_told_from_those_that_wait() -> None:
    listener = Listener()
    reporter = Reporter(listener, state)
    for chunk_id in (1, 2):
        reporter.hold(chunk_id)
    reporter.begin(1)
    reporter.begin(3)  # not held (any more)
    await reporter.flush()
    assert (listener.heard[-1].chunks, listener.heard[-1].begun) == ((1, 2), (1,))


async def test_news_waits_for_a_broker_that_is_away() -> None:
    listener = Listener()
    reporter = Reporter(listener, state)
    listener.away = True
    reporter.finish(1, Completion(id="u1"))
    assert not await reporter.flush()
    reporter.finish(1, Completion(id="u2"))
    assert not await reporter.flush()
    listener.away = False
    assert await reporter.flush()
    assert finished(listener) == ["u1", "u2"]


async def test_a_chunk_ends_with_its_last_completions_and_not_before() -> None:
    listener = Listener()
    reporter = Reporter(listener, state)
    reporter.hold(1)
    for i in range(MESSAGE_COMPLETIONS + 1):
        reporter.finish(1, Completion(id=f"u{i}"))
    reporter.end(1)
    await reporter.flush()
    assert [len(progress.finished) for progress in listener.heard] == [MESSAGE_COMPLETIONS, 1]
    assert [progress.ended for progress in listener.heard] == [(), (1,)]
    assert listener.heard[0].chunks == (1,)
