"""The residency plan: which model next on which worker, and which chunks into its window. Pure.

The rule: a worker stays with the model it has while there is work for it, or while instances further up are
about to make some; then it takes the model for which most units wait. So a model is loaded once for all that
waits for it. Models that will be needed again at a later stage (aggregators) go last, so that the later work
finds them resident.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

HOLD_S = 30.0
"""An idle worker waits so long for upstream work that may need its model. A bound only: staging takes seconds."""
DEMAND_STAY_S = 10.0
"""A model loaded for queries stays so long after the last of them, although bulk work waits for another."""
REPLICATE_CHUNKS = 6
"""A model is loaded on one more worker when so many chunks of it wait for each worker that has it."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What waits for one model."""

    model_key: str
    engine: str
    """The engine it needs: "vllm", "remote" or "stub"."""
    units: int = 0
    """Units waiting, suspects not counted."""
    suspects: int = 0
    """Units waiting that were lost twice: each runs alone."""
    tokens: int = 0
    """Tokens those units may take."""
    oldest_s: float = 0.0
    """Age of the oldest unit."""
    demand_s: float | None = None
    """How long online requests have waited for it; None: none waits."""
    upstream: int = 0
    """Instances that the stager is about to move on without any engine's help, and that may then need it."""
    later: int = 0
    """Instances that will probably need it once other models have answered them."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that is alive, with its window."""

    name: str
    engines: tuple[str, ...]
    window: int
    """Chunks it may hold."""
    resident: tuple[str, ...] = ()
    """Models in its memory, least recently used first."""
    loading: str | None = None
    out: Mapping[str, int] = field(default_factory=dict)
    """Chunks sent to it and not ended, by model."""
    is_alone: bool = False
    """It runs a suspect, which must have it to itself."""
    is_unbounded: bool = False
    """It has no device: any number of models at once, and no switching."""
    is_draining: bool = False
    idle_s: float = 0.0
    """How long it has held no chunk."""
    online_idle_s: float | None = None
    """How long ago it last served a query, or loaded a model for one; None: never."""

    @property
    def chunks(self) -> int:
        return sum(self.out.values())

    @property
    def models(self) -> tuple[str, ...]:
        """Models it has, is loading, or has been sent chunks for."""
        return tuple(dict.fromkeys([*self.resident, *([self.loading] if self.loading else []), *self.out]))


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send chunks of a model's waiting units to a worker. `alone`: one suspect unit."""

    worker: str
    model_key: str
    chunks: int = 1
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Load:
    """Make a model resident for online requests that wait for it."""

    worker: str
    model_key: str


@dataclass(frozen=True, kw_only=True)
class Prefetch:
    """Have a worker read the weights of the model that comes next, while the present one runs dry."""

    worker: str
    model_key: str


Action = Send | Load | Prefetch


def plan(queues: Sequence[Queue], workers: Sequence[Worker], *, chunk_units: int) -> list[Action]:
    """What to do now. Same values in, same actions out."""
    return _Planning(queues, workers, chunk_units).actions()


def waited_for(queue: Queue, *, demand_s: float) -> Queue:
    """The queue of a model that online requests have waited for."""
    return replace(queue, demand_s=demand_s)


def fewest_loads(stages: Sequence[frozenset[str]], *, resident: str | None = None) -> int:
    """How many loads one worker with room for one model needs at least, when each stage follows the one before.

    `stages` are the models of each stage, in order. The last model of a stage can be the first of the next.
    """
    loads = 0
    last = frozenset([resident]) if resident else frozenset[str]()
    for models in stages:
        if not models:
            continue
        shared = models & last
        loads += len(models) - bool(shared)
        # Any model of this stage can come last, but the one it began with, unless it is the only one.
        last = models - shared if len(shared) == 1 and len(models) > 1 else models
    return loads


class _Planning:
    """One planning: the units still unplanned, and the actions so far."""

    def __init__(self, queues: Sequence[Queue], workers: Sequence[Worker], chunk_units: int) -> None:
        self._queues = {queue.model_key: queue for queue in queues}
        self._left = {queue.model_key: queue.units for queue in queues}
        self._suspects = {queue.model_key: queue.suspects for queue in queues}
        self._workers = [worker for worker in workers if not worker.is_draining]
        self._holders: dict[str, int] = {}
        for worker in self._workers:
            for key in worker.models:
                self._holders[key] = self._holders.get(key, 0) + 1
        self._chunk_units = chunk_units
        self._actions: list[Action] = []

    def actions(self) -> list[Action]:
        reserved = self._meet_demand()
        # Workers that need not switch take their share first: what is left is worth a load.
        for worker in sorted(self._workers, key=lambda each: (not self._has_work(each), each.name)):
            if worker.is_alone or worker.name in reserved:
                continue
            if worker.is_unbounded:
                self._fill_unbounded(worker)
            elif not self._go_on(worker) and not worker.chunks:
                self._switch(worker)
        return self._actions

    def _meet_demand(self) -> set[str]:
        """Find a worker for each model that queries wait for; a busy one gets no more bulk until it has loaded it."""
        reserved: set[str] = set()
        wanted = [queue for queue in self._queues.values() if queue.demand_s is not None]
        for queue in sorted(wanted, key=lambda each: -(each.demand_s or 0.0)):
            if any(queue.model_key in (*each.resident, each.loading) for each in self._workers):
                continue
            able = [each for each in self._able(queue) if each.name not in reserved and each.loading is None]
            if not able:
                continue
            worker = min(able, key=lambda each: (not each.is_unbounded, each.chunks, self._has_work(each), each.name))
            reserved.add(worker.name)
            if worker.is_unbounded or not worker.chunks:
                self._actions.append(Load(worker=worker.name, model_key=queue.model_key))
        return reserved

    def _fill_unbounded(self, worker: Worker) -> None:
        """Spread the window over the models, so that a slow one does not hold up the others."""
        out = dict(worker.out)
        for _ in range(worker.window - worker.chunks):
            waiting = [key for key, queue in self._queues.items() if self._left[key] > 0 and _can_run(worker, queue)]
            if not waiting:
                break
            key = min(waiting, key=lambda each: (out.get(each, 0), -self._left[each], each))
            out[key] = out.get(key, 0) + 1
            self._send(worker, key, 1)
        else:
            return
        if not out:
            self._send_suspect(worker, list(self._queues))

    def _go_on(self, worker: Worker) -> bool:
        """Top up the window with the model in hand; True if that, or the hope of it, keeps the worker."""
        free = worker.window - worker.chunks
        if worker.out:
            self._send(worker, list(worker.out)[-1], free)
            return True
        if worker.loading is not None and self._left.get(worker.loading, 0) > 0:
            self._send(worker, worker.loading, free)
            return True
        waiting = [key for key in worker.resident if self._left.get(key, 0) > 0]
        if waiting:
            self._send(worker, max(waiting, key=lambda key: (self._left[key], key)), free)
            return True
        return self._send_suspect(worker, worker.resident) or worker.loading is not None or self._is_held(worker)

    def _is_held(self, worker: Worker) -> bool:
        if worker.resident and worker.online_idle_s is not None and worker.online_idle_s < DEMAND_STAY_S:
            return True
        upstream = sum(self._queues[key].upstream for key in worker.resident if key in self._queues)
        return upstream > 0 and worker.idle_s < HOLD_S

    def _switch(self, worker: Worker) -> None:
        """Take the model for which most waits, unless other workers do."""
        able = [queue for queue in self._queues.values() if _can_run(worker, queue)]
        worth = [queue for queue in able if self._is_worth_a_load(queue)]
        if worth:
            best = max(worth, key=lambda queue: (queue.later == 0, self._left[queue.model_key], queue.model_key))
            self._holders[best.model_key] = self._holders.get(best.model_key, 0) + 1
            self._send(worker, best.model_key, worker.window)
        else:
            self._send_suspect(worker, [queue.model_key for queue in able if not self._holders.get(queue.model_key)])

    def _is_worth_a_load(self, queue: Queue) -> bool:
        holders = self._holders.get(queue.model_key, 0)
        return self._left[queue.model_key] > holders * REPLICATE_CHUNKS * self._chunk_units

    def _send(self, worker: Worker, key: str, chunks: int) -> None:
        """At most `chunks` chunks of what is left of a model."""
        needed = -(-self._left.get(key, 0) // self._chunk_units)
        if (count := min(chunks, needed)) > 0:
            self._left[key] = max(0, self._left[key] - count * self._chunk_units)
            self._actions.append(Send(worker=worker.name, model_key=key, chunks=count))

    def _send_suspect(self, worker: Worker, keys: Sequence[str]) -> bool:
        """A suspect goes to an empty worker only, after all that is not suspect."""
        for key in keys:
            if self._suspects.get(key, 0) > 0 and not worker.chunks and _can_run(worker, self._queues[key]):
                self._suspects[key] -= 1
                self._actions.append(Send(worker=worker.name, model_key=key, alone=True))
                return True
        return False

    def _able(self, queue: Queue) -> list[Worker]:
        return [worker for worker in self._workers if _can_run(worker, queue)]

    def _has_work(self, worker: Worker) -> bool:
        return any(self._left.get(key, 0) > 0 for key in worker.models)


def _can_run(worker: Worker, queue: Queue) -> bool:
    return queue.engine in worker.engines
