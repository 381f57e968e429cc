"""The work left while a plan is made, in seconds of device time, and who has its models."""

from collections.abc import Mapping, Sequence

from orchestrator.residency.costs import UNKNOWN, Costs
from orchestrator.residency.queue import Queue
from orchestrator.residency.worker import Worker

CHUNK_MIN = 16
"""Units: fewer at once do not fill an engine."""
SHARES = 2
"""Into so many chunks each holder's share of what is left is divided."""


class Work:
    """Units not yet planned, and what they will take. Changes as the plan sends chunks."""

    def __init__(
        self, queues: Sequence[Queue], workers: Sequence[Worker], models: Mapping[str, Costs], chunk_units: int
    ) -> None:
        self.queues = {queue.model_key: queue for queue in queues}
        self.left = {queue.model_key: queue.units for queue in queues}
        self.suspects = {queue.model_key: queue.suspects for queue in queues}
        self.holders: dict[str, int] = {}
        """Workers that have a model, are loading it, or were sent chunks of it."""
        self.is_going_on = any(worker.chunks or worker.loading for worker in workers)
        """Somebody works, or will: answers are to be expected."""
        self._least_bytes: int | None = None
        self._models = models
        self.chunk_units = chunk_units
        self._unit_s = {queue.model_key: _unit_s(queue, self.costs(queue.model_key)) for queue in queues}
        self._out_s: dict[str, float] = {}
        for worker in workers:
            for key in worker.models:
                self.holders[key] = self.holders.get(key, 0) + 1
            for key, chunks in worker.out.items():
                # Of what is out, half is probably done.
                self._out_s[key] = self._out_s.get(key, 0.0) + chunks * self.chunk_s(key) / 2
            for key in worker.loading:
                self._out_s[key] = self._out_s.get(key, 0.0) + self.ready_s(worker, key) / 2

    def costs(self, key: str) -> Costs:
        return self._models.get(key, UNKNOWN)

    def ready_s(self, worker: Worker, key: str) -> float:
        """Seconds until the model, not resident now, could work there: of its waking, or of its load."""
        return self.costs(key).again_s if key in worker.asleep else self.costs(key).load_s

    def can_run(self, worker: Worker, queue: Queue) -> bool:
        """Whether the worker has the engine, the devices and the memory for the model."""
        costs = self.costs(queue.model_key)
        return (
            queue.engine in worker.engines
            and costs.devices <= worker.devices
            and (worker.memory_bytes is None or costs.memory_bytes <= worker.memory_bytes)
        )

    def fits_beside(self, worker: Worker, key: str, *, kept: Sequence[str]) -> bool:
        """Whether there is room for the model beside those that are kept."""
        if kept and key in worker.whole:
            return False
        return self._has_room_for(worker, self.costs(key).memory_bytes, kept)

    def has_room(self, worker: Worker, kept: Sequence[str]) -> bool:
        """Whether any model at all would fit beside those that are kept."""
        if self._least_bytes is None:
            self._least_bytes = min((self.costs(key).memory_bytes for key in self.queues), default=0)
        return self._has_room_for(worker, self._least_bytes, kept)

    def _has_room_for(self, worker: Worker, memory_bytes: int, kept: Sequence[str]) -> bool:
        if any(each in worker.whole for each in kept):
            return False
        if worker.residents is not None and len(kept) + 1 > worker.residents:
            return False
        if worker.memory_bytes is None:
            return worker.residents is not None and worker.residents > 1
        return sum(self.costs(other).memory_bytes for other in kept) + memory_bytes <= worker.memory_bytes

    def waiting_s(self, key: str) -> float:
        return self.left[key] * self._unit_s[key]

    def soon_s(self, key: str) -> float:
        return self.queues[key].soon * self._unit_s[key]

    def later_s(self, key: str) -> float:
        return self.queues[key].later * self._unit_s[key]

    def out_s(self, key: str) -> float:
        """What holders of the model have yet to do of what they were sent."""
        return self._out_s.get(key, 0.0)

    def chunk_s(self, key: str) -> float:
        return self.chunk_units * self._unit_s.get(key, self.costs(key).unit_s)

    def takes_over_s(self, worker: Worker, key: str, *, with_later: bool = False) -> float:
        """How much work this worker would take from a model's holders, by the time all end together.

        With h holders, R waiting, O out at them and a load of s seconds, all end after t = (R + O + s) / (h + 1),
        and the newcomer has worked for t − s of it.
        """
        waiting_s = self.waiting_s(key) + self.soon_s(key) + (self.later_s(key) if with_later else 0.0)
        ready_s = self.ready_s(worker, key)
        end_s = (waiting_s + self.out_s(key) + ready_s) / (self.holders.get(key, 0) + 1)
        return min(waiting_s, end_s - ready_s)

    def share(self, key: str) -> int:
        """Units per chunk, so that a model's last chunks are spread over all its holders and these end together."""
        holders = self.holders.get(key, 1)
        if holders <= 1:
            return self.chunk_units
        return min(self.chunk_units, max(CHUNK_MIN, -(-self.left[key] // (holders * SHARES))))

    def take(self, key: str, chunks: int, units: int) -> int:
        """Take at most so many chunks of so many units of what is left; returns how many chunks there were."""
        count = max(0, min(chunks, -(-self.left[key] // units)))
        taken = min(self.left[key], count * units)
        self.left[key] -= taken
        self.is_going_on = self.is_going_on or count > 0
        self._out_s[key] = self.out_s(key) + taken * self._unit_s[key]
        return count

    def hold(self, worker: Worker, key: str) -> None:
        """One more worker will have the model, after its load."""
        self.holders[key] = self.holders.get(key, 0) + 1
        self._out_s[key] = self.out_s(key) + self.ready_s(worker, key)


def _unit_s(queue: Queue, costs: Costs) -> float:
    if not queue.units or not queue.tokens:
        return costs.unit_s
    completions = queue.tokens - queue.prompt_tokens
    return costs.seconds(prompt_tokens=queue.prompt_tokens, completion_tokens=completions) / queue.units
