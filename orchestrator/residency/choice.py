"""Which model a worker takes next, when nothing more is to be done with those it has. Pure."""

from collections.abc import Collection, Sequence

from orchestrator.residency import online
from orchestrator.residency.queue import Queue
from orchestrator.residency.work import Work
from orchestrator.residency.worker import Worker


class Choice:
    """Weighs models against each other, by the work that is left."""

    def __init__(self, work: Work, workers: Sequence[Worker]) -> None:
        self._work = work
        self._count = sum(not worker.is_unbounded for worker in workers)
        self._idle = {
            worker.name: worker.asleep
            for worker in workers
            if worker.asleep and not (worker.in_use or worker.is_alone or online.is_held(worker))
        }
        """Workers that may wake a model now -> those that sleep there."""
        self._feeding = [queue for queue in work.queues.values() if queue.feeds > 0]
        self._by_likes: dict[tuple[tuple[str, ...], int, int | None], list[Queue]] = {}

    def next(self, worker: Worker, *, kept: Sequence[str] = (), skip: Collection[str] = ()) -> str | None:
        """The model to load, although nothing may wait for it yet; None: no load is worth it.

        1. A model that nobody has: the one with most work. One that is needed again later only if what waits for it
           already lasts until the models before it are done. Rather one that no other idle worker would have sooner.
        2. One more holder of an earlier stage instead, where that feeds the later ones too slowly.
        3. One more holder of a model, if that takes over more seconds of work than its load takes.
        4. What is needed again later. 5. One more holder of that. 6. What no unit waits for yet.
        """
        free: list[Queue] = []
        held: list[Queue] = []
        for queue in self._able(worker):
            key = queue.model_key
            if key in worker.models or key in skip or (kept and not self._work.fits_beside(worker, key, kept=kept)):
                continue
            (held if self._work.holders.get(key) else free).append(queue)
        first = [queue for queue in free if self._has_work(queue) and self._may_come_first(queue)]
        if first:
            best = self._largest(self._sooner_here(worker, first))
            return self._feeder(worker, best, held) or best
        if more := self._worth_a_replica(worker, held):
            return more
        if last := [queue for queue in free if self._work.left[queue.model_key] > 0]:
            return max(self._sooner_here(worker, last), key=self._urgency).model_key
        if more := self._worth_a_replica(worker, held, with_later=True):
            return more
        expected = [queue for queue in free if queue.later > 0 and self._work.is_going_on]
        return self._largest(expected) if expected else None

    def planned(self, worker: str) -> None:
        """This worker has got what it gets: it will wake nothing else now."""
        self._idle.pop(worker, None)

    def _able(self, worker: Worker) -> list[Queue]:
        """Queues with work, now or expected, that the worker can run; kept, since most workers are alike."""
        likes = (worker.engines, worker.devices, worker.memory_bytes)
        if likes not in self._by_likes:
            self._by_likes[likes] = [
                queue
                for queue in self._work.queues.values()
                if (queue.units or queue.soon or queue.later) and self._work.can_run(worker, queue)
            ]
        return self._by_likes[likes]

    def feed_s(self) -> float:
        """How long models of an earlier stage will go on bringing work, with the workers they have."""
        return max(
            (
                (self._work.waiting_s(queue.model_key) + self._work.out_s(queue.model_key))
                / max(1, self._work.holders.get(queue.model_key, 0))
                for queue in self._feeding
            ),
            default=0.0,
        )

    def _has_work(self, queue: Queue) -> bool:
        """Units wait; or some are expected, which is of use only while somebody works."""
        return self._work.left[queue.model_key] > 0 or (queue.soon > 0 and self._work.is_going_on)

    def _largest(self, queues: Sequence[Queue]) -> str:
        """Most work, but first what others wait for.

        In a group of devices, what needs most of them comes before all else, since nobody else can run it.
        """

        def weight(queue: Queue) -> tuple[int, bool, float, str]:
            key = queue.model_key
            work_s = self._work.waiting_s(key) + self._work.soon_s(key)
            return (self._work.costs(key).devices, queue.feeds > 0 and self._work.left[key] > 0, work_s, key)

        return max(queues, key=weight).model_key

    def _urgency(self, queue: Queue) -> tuple[float, str]:
        """What is needed again later waits for those that are needed less."""
        return (self._work.waiting_s(queue.model_key) - self._work.later_s(queue.model_key), queue.model_key)

    def _may_come_first(self, queue: Queue) -> bool:
        if queue.later == 0:
            return True
        others = self._count - 1 - self._work.holders.get(queue.model_key, 0)
        if others <= 0:
            return False
        return self._work.waiting_s(queue.model_key) >= self._before_later_s() / others

    def _before_later_s(self) -> float:
        """Work of the models that no later stage needs again, with the loads that it takes."""
        total = 0.0
        for key, queue in self._work.queues.items():
            if queue.later == 0 and (self._has_work(queue) or self._work.out_s(key)):
                total += self._work.waiting_s(key) + self._work.soon_s(key) + self._work.out_s(key)
                total += 0.0 if self._work.holders.get(key) else self._work.costs(key).load_s
        return total

    def _sooner_here(self, worker: Worker, queues: Sequence[Queue]) -> Sequence[Queue]:
        """Without those that sleep at idle workers and not at this one; all of them, if that leaves none."""
        elsewhere = {key for asleep in self._idle.values() for key in asleep}.difference(worker.asleep)
        return [queue for queue in queues if queue.model_key not in elsewhere] or queues

    def _worth_a_replica(self, worker: Worker, held: Sequence[Queue], *, with_later: bool = False) -> str | None:
        """The model where one more holder takes over most work, if that is more than its load."""
        best, most = None, 0.0
        for queue in held:
            if queue.later > 0 and not with_later:
                continue
            key = queue.model_key
            gain = self._work.takes_over_s(worker, key, with_later=with_later)
            if gain > self._work.ready_s(worker, key) and gain > most:
                best, most = key, gain
        return best

    def _feeder(self, worker: Worker, candidate: str, held: Sequence[Queue]) -> str | None:
        """An earlier stage's model, if `candidate` and the likes of it would mostly wait for its answers.

        Until the feeding models end, their consumers should find enough work to be busy.
        """
        feeding = [queue for queue in held if queue.feeds > 0 and self._work.left[queue.model_key] > 0]
        if not feeding:
            return None
        sources = {queue.model_key for queue in self._feeding}
        feed_s = self.feed_s()
        found_s, consumers = 0.0, 0
        for key in {candidate, *self._work.holders} - sources:
            if key in self._work.queues:
                holders = self._work.holders.get(key, 0) + (key == candidate)
                work_s = self._work.waiting_s(key) + self._work.soon_s(key) + self._work.out_s(key)
                found_s += min(work_s, holders * feed_s)
                consumers += holders
        if found_s >= consumers * feed_s:
            return None
        return self._worth_a_replica(worker, feeding, with_later=True)
