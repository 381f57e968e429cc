"""A worker without engine, process or Celery: it takes chunks from its queue and says what a test tells it to say."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from typing import Self

import redis

from workers.messages import (
    PROGRESS_STREAM,
    Chunk,
    Completion,
    Finished,
    Load,
    LoadEvent,
    Model,
    Progress,
    Request,
    WorkerState,
    bulk_queue,
    online_queue,
)


class FakeWorker:
    """Speaks the messages. Each method that says something publishes one progress message."""

    def __init__(
        self,
        redis_url: str,
        name: str = "fake",
        *,
        slots: int = 2,
        engines: Sequence[str] = ("vllm", "stub"),
        device: str = "cpu",
    ) -> None:
        self.name = name
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._slots = slots
        self._engines = tuple(engines)
        self._device = device
        self.resident: tuple[str, ...] = ()
        self.asleep: tuple[str, ...] = ()
        self.loading: tuple[str, ...] = ()
        self.held: list[Chunk] = []
        self.started_at = 1.0

    def __enter__(self) -> Self:
        self.say()
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def take(self) -> list[Chunk]:
        """Chunks that were sent since the last time; they are held from now on."""
        taken = [Chunk.model_validate(message) for message in self._messages(bulk_queue(self.name))]
        self.held += taken
        return taken

    def loads(self) -> list[Load]:
        """Loads it was told to make since the last time."""
        return [Load.model_validate(message) for message in self._messages(online_queue(self.name))]

    def say(
        self,
        *,
        finished: Sequence[Finished] = (),
        ended: Sequence[int] = (),
        loads: Sequence[LoadEvent] = (),
        chunks: Sequence[int] | None = None,
        begun: Sequence[int] | None = None,
        draining: bool = False,
    ) -> None:
        """Publish progress. `chunks`: what it claims to hold; by default, what it does. `begun`: by default, all."""
        state = WorkerState(
            worker=self.name,
            at=time.time(),
            started_at=self.started_at,
            device=self._device,
            engines=self._engines,
            resident=self.resident,
            asleep=self.asleep,
            loading=self.loading[0] if self.loading else None,
            also_loading=self.loading[1:],
            bulk_slots=self._slots,
            draining=draining,
        )
        holds = tuple(chunk.id for chunk in self.held) if chunks is None else tuple(chunks)
        progress = Progress(
            state=state,
            chunks=holds,
            begun=None if begun is None else tuple(begun),
            finished=tuple(finished),
            ended=tuple(ended),
            loads=tuple(loads),
        )
        self._redis.xadd(PROGRESS_STREAM, {"progress": progress.model_dump_json()})

    def load(self, model: Model, *, chunk_id: int | None = None) -> None:
        """Say that a model is resident now, and no other."""
        self.resident = (model.key,)
        self.say(loads=[LoadEvent(model_key=model.key, seconds=0.5, chunk_id=chunk_id)])

    def finish(self, chunk: Chunk, answer: Callable[[Request], Completion] | None = None) -> None:
        """Complete every request of a chunk, and end it."""
        make = answer or right_answer
        finished = [Finished(chunk_id=chunk.id, completion=make(request)) for request in chunk.requests]
        self.held = [each for each in self.held if each.id != chunk.id]
        self.say(finished=finished, ended=[chunk.id])

    def work(self) -> int:
        """Take what was sent and finish all of it, loading as needed; returns how many chunks."""
        self.take()
        worked = 0
        while self.held:
            chunk = self.held[0]
            if chunk.model.key not in self.resident:
                self.load(chunk.model, chunk_id=chunk.id)
            self.finish(chunk)
            worked += 1
        if not worked:
            self.say()
        return worked

    def _messages(self, queue: str) -> list[object]:
        """The only argument of each task in a queue, as Celery and Kombu write them to Redis."""
        found: list[object] = []
        while isinstance(raw := self._redis.rpop(queue), str):
            arguments, *_ = json.loads(base64.b64decode(json.loads(raw)["body"]))
            found.append(arguments[0])
        return found


def right_answer(request: Request) -> Completion:
    """The gold answer that the question carries in its marks, as the stub engine would find it."""
    spoken = request.messages[-1].content
    gold = spoken.partition("[stub:gold=")[2].partition("]")[0]
    return Completion(
        id=request.id, text=f"The answer is ({gold})." if gold else "", prompt_tokens=10, completion_tokens=5
    )
