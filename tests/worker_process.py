"""A real worker process for tests, and what the orchestrator would see of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import celery
import redis

from orchestrator import broker
from orchestrator.local import child
from orchestrator.settings import Settings
from tests.waiting import until
from workers import messages
from workers.messages import (
    ChatMessage,
    Chunk,
    Completion,
    Delta,
    Load,
    LoadEvent,
    Model,
    OnlineRequest,
    Progress,
    Request,
    Sampling,
    Value,
    WorkerState,
)


def request(request_id: str, text: str = "Say something.", *, max_tokens: int = 32, seed: int = 0) -> Request:
    """A request of one user message."""
    sampling = Sampling(max_tokens=max_tokens, seed=seed)
    return Request(id=request_id, messages=(ChatMessage(role="user", content=text),), sampling=sampling)


def chunk(chunk_id: int, model: Model, requests: Iterable[Request], *, run_id: str = "run") -> Chunk:
    return Chunk(id=chunk_id, run_id=run_id, model=model, requests=tuple(requests))


class WorkerProcess:
    """`python -m workers` as a child. Use as a context manager: it is killed at the end."""

    def __init__(
        self,
        redis_url: str,
        data_dir: Path,
        *options: str,
        name: str = "w1",
        device: str = "cpu",
        prefix: Sequence[str] = (),
        own_redis_url: str | None = None,
    ) -> None:
        """`prefix`: a command that becomes the worker. `own_redis_url`: the broker as the worker sees it."""
        self.name = name
        self.data_dir = data_dir
        self.redis: redis.Redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._app: celery.Celery = broker.sender(Settings(redis_url=redis_url))
        self._prefix = prefix
        self._arguments = ["--name", name, "--device", device, *options]
        self._environment = {**os.environ, "REDIS_URL": own_redis_url or redis_url, "MUSTER_DATA_DIR": str(data_dir)}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._app.close()
        self.redis.close()

    def start(self) -> None:
        """Start it (again) and wait for its first state."""
        began_s = time.time()
        self.begin()
        until(lambda: (state := self.state()) is not None and state.at > began_s, timeout_s=30.0)

    def begin(self) -> None:
        """Start it (again) without waiting."""
        command = [*self._prefix, sys.executable, "-m", "workers", *self._arguments]
        self.process = child.spawn(command, env=self._environment)

    def terminate(self, sent: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns its exit status."""
        self.process.send_signal(sent)
        return self.process.wait(timeout=30.0)

    def send(self, message: Chunk | OnlineRequest | Load) -> None:
        task, queue = {
            Chunk: (messages.BULK_TASK, messages.bulk_queue(self.name)),
            OnlineRequest: (messages.ONLINE_TASK, messages.online_queue(self.name)),
            Load: (messages.LOAD_TASK, messages.online_queue(self.name)),
        }[type(message)]
        value: Value = message
        broker.send(self._app, task, queue, value)

    def send_raw(self, task: str, queue: str, message: dict[str, object]) -> None:
        """Send a message that is none of ours."""
        broker.send_json(self._app, task, queue, message)

    def ask(self, model: Model, asked: Request, *, seconds: float = 10.0) -> None:
        """Send an online request; its reply is read with `deltas` or `reply`."""
        self.send(OnlineRequest(request=asked, model=model, deadline_s=time.time() + seconds))

    def deltas(self, request_id: str) -> list[Delta]:
        """What has come of an online reply."""
        entries: Any = self.redis.xrange(messages.reply_stream(request_id))
        return [Delta.model_validate_json(fields["delta"]) for _, fields in entries]

    def reply(self, request_id: str, *, timeout_s: float = 10.0) -> Completion:
        """Wait for the completion of an online request."""
        found = until(lambda: [d.completion for d in self.deltas(request_id) if d.completion], timeout_s=timeout_s)
        return found[0]

    def state(self) -> WorkerState | None:
        text = self.redis.hget(messages.WORKERS_KEY, self.name)
        return None if text is None else WorkerState.model_validate_json(str(text))

    def progress(self) -> list[Progress]:
        """All it has published."""
        entries: Any = self.redis.xrange(messages.PROGRESS_STREAM)
        return [Progress.model_validate_json(fields["progress"]) for _, fields in entries]

    def finished(self, *chunk_ids: int) -> dict[str, Completion]:
        """Request id -> completion, of chunks that were finished so far. Fails if a unit was reported twice."""
        found = [f for each in self.progress() for f in each.finished if f.chunk_id in chunk_ids]
        by_id = {each.completion.id: each.completion for each in found}
        assert len(by_id) == len(found), "a unit was reported twice"
        return by_id

    def ended(self) -> list[int]:
        """Chunks that it said it is done with, in order."""
        return [chunk_id for each in self.progress() for chunk_id in each.ended]

    def wait_ended(self, *chunk_ids: int, timeout_s: float = 10.0) -> None:
        until(lambda: set(chunk_ids) <= set(self.ended()), timeout_s=timeout_s)

    def loads(self) -> list[LoadEvent]:
        return [load for each in self.progress() for load in each.loads]
