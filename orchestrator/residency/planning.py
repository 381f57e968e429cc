"""The plan: values in, actions out.

A worker stays with the model it has while there is work for it, or while instances further up are about to make
some; then it takes the model that `choice.py` finds worth a load. So a model is loaded once for all that waits.
Queries come before all that (`online.py`), and nobody starves (`overdue.py`), not even beside queries.
"""

from collections.abc import Mapping, Sequence

from orchestrator.residency import online, overdue
from orchestrator.residency.actions import Action, Load, Prefetch, Send
from orchestrator.residency.choice import Choice
from orchestrator.residency.costs import Costs
from orchestrator.residency.queue import Queue
from orchestrator.residency.work import Work
from orchestrator.residency.worker import Worker

HOLD_S = 30.0
"""An idle worker waits so long for upstream work that may need its model. A bound only: staging takes seconds."""


def plan(
    queues: Sequence[Queue],
    workers: Sequence[Worker],
    *,
    chunk_units: int,
    models: Mapping[str, Costs] | None = None,
) -> list[Action]:
    """What to do now. `models`: costs as measured, by key; a model that is missing costs what `Costs()` says."""
    return _Planning(queues, workers, chunk_units, models or {}).actions()


class _Planning:
    """One planning: the work still unplanned, and the actions so far."""

    def __init__(
        self, queues: Sequence[Queue], workers: Sequence[Worker], chunk_units: int, models: Mapping[str, Costs]
    ) -> None:
        self._workers = [worker for worker in workers if not worker.is_draining]
        self._work = Work(queues, self._workers, models, chunk_units)
        self._choice = Choice(self._work, self._workers)
        self._actions: list[Action] = []

    def actions(self) -> list[Action]:
        demanded = online.loads(self._work, self._workers)
        reserved = {worker.name for worker, _ in demanded}
        turns = overdue.turns(self._work, self._choice, self._workers, reserved=reserved)
        given = {turn.worker.name for turn in turns}
        self._actions += [load for _, load in demanded if load is not None and load.worker not in given]
        for turn in turns:
            self._serve(turn)
        reserved |= given
        for name in reserved:
            self._choice.planned(name)
        # Workers that need not switch take their share first: what is left is worth a load. Of the others, those that
        # need only wake a model.
        for worker in sorted(self._workers, key=lambda each: (not self._has_work(each), not each.asleep, each.name)):
            if worker.is_alone or worker.name in reserved:
                continue
            if worker.is_unbounded:
                self._fill_unbounded(worker)
            else:
                self._fill(worker)
            self._choice.planned(worker.name)
        self._announce(reserved)
        return self._actions

    def _serve(self, turn: overdue.Turn) -> None:
        """Overdue units, if the worker has run dry."""
        if turn.worker.chunks:
            return
        if turn.alone:
            self._send_suspect(turn.worker, [turn.model_key])
        else:
            self._take(turn.worker, turn.model_key, turn.worker.window)

    def _fill_unbounded(self, worker: Worker) -> None:
        """Spread the window over the models, so that a slow one does not hold up the others."""
        out = dict(worker.out)
        for _ in range(worker.window - worker.chunks):
            waiting = [
                key
                for key, queue in self._work.queues.items()
                if self._work.left[key] > 0 and self._work.can_run(worker, queue)
            ]
            if not waiting:
                break
            key = min(waiting, key=lambda each: (out.get(each, 0), -self._work.left[each], each))
            out[key] = out.get(key, 0) + 1
            self._send(worker, key, 1)
        else:
            return
        if not out:
            self._send_suspect(worker, list(self._work.queues))

    def _fill(self, worker: Worker) -> None:
        """Top up the window with the models in hand; take another when they have, and will have, no more."""
        free = worker.window - worker.chunks
        if free <= 0:
            return
        used = set(worker.in_use)
        if self._is_starved(worker):
            if not used:
                self._switch(worker)
            return
        for key in self._in_hand(worker):
            if free > 0 and (sent := self._send(worker, key, free)):
                free -= sent
                used.add(key)
            if used and worker.residents == 1:
                return
        if not used:
            if not self._send_suspect(worker, worker.resident):
                self._switch(worker)
        elif free > 0 and not worker.loading:
            self._pack(worker, used, free)

    def _switch(self, worker: Worker) -> None:
        """Take the next model, unless there is a reason to wait for more work for the present one."""
        is_held = online.is_held(worker) and worker.bulk_idle_s < overdue.BULK_TURN_S
        if is_held or self._is_held_upstream(worker):
            return
        if (key := self._choice.next(worker)) is None:
            able = [key for key, queue in self._work.queues.items() if self._work.can_run(worker, queue)]
            self._send_suspect(worker, [key for key in able if not self._work.holders.get(key)])
        elif not self._take(worker, key, worker.window) and not self._is_expecting(worker):
            # Nothing waits for it yet: others' answers will bring it work.
            self._work.hold(worker, key)
            self._actions.append(Load(worker=worker.name, model_key=key))

    def _in_hand(self, worker: Worker) -> list[str]:
        """Models whose chunks may go to the worker now, the present one first, then that with most units.

        Unless one of the others has units that are overdue.
        """
        keys = [*reversed([*worker.out]), *worker.loading]
        if not keys or worker.residents != 1:
            others = [key for key in worker.resident if key not in keys]
            keys += sorted(others, key=lambda key: (self._work.left.get(key, 0), key), reverse=True)
        ages = {key: self._work.queues[key].oldest_s for key in keys if self._work.left.get(key, 0) > 0}
        if ages and max(ages.values()) - next(iter(ages.values())) > overdue.GRACE_S:
            keys = sorted(ages, key=lambda key: (-ages[key], key))
        return keys

    def _is_starved(self, worker: Worker) -> bool:
        """Its models get so little work, for so long, that it pays to load another now and these again later."""
        coming = [key for key in worker.models if key in self._work.queues and self._work.queues[key].soon > 0]
        if not coming or any(self._work.queues[key].feeds > 0 for key in coming):
            return False
        work_s = sum(self._work.waiting_s(key) + self._work.soon_s(key) for key in coming)
        again_s = max(self._work.costs(key).again_s for key in coming)
        if self._choice.feed_s() - work_s <= again_s:
            return False
        key = self._choice.next(worker)
        return key is not None and self._work.waiting_s(key) > self._work.ready_s(worker, key)

    def _pack(self, worker: Worker, used: set[str], free: int) -> None:
        """Load one more model beside those in use, where memory allows."""
        kept = [key for key in worker.models if key in used or self._work.left.get(key, 0) > 0]
        if self._work.has_room(worker, kept) and (key := self._choice.next(worker, kept=kept)) is not None:
            self._take(worker, key, free)

    def _is_held_upstream(self, worker: Worker) -> bool:
        """Work is about to come without any engine's help; or with others' answers, so much that to wait for it costs
        less than to load the model again. It waits for those as long as a load takes and no more, if they do not come.
        """
        queues = [self._work.queues[key] for key in worker.resident if key in self._work.queues]
        if any(queue.upstream for queue in queues) and worker.idle_s < HOLD_S:
            return True
        coming = [queue.model_key for queue in queues if queue.soon > 0]
        if not coming or not self._work.is_going_on:
            return False
        again_s = max(self._work.costs(key).again_s for key in coming)
        idle_s = self._choice.feed_s() - sum(self._work.soon_s(key) for key in coming)
        return idle_s <= again_s and worker.idle_s < again_s

    def _is_expecting(self, worker: Worker) -> bool:
        """Its own models will be needed as well: there is nothing to be gained by another."""
        queues = [self._work.queues[key] for key in worker.resident if key in self._work.queues]
        return any(queue.soon or queue.later for queue in queues)

    def _take(self, worker: Worker, key: str, chunks: int) -> int:
        """Send chunks of a model that the worker has yet to load."""
        if self._work.left.get(key, 0) <= 0:
            return 0
        if key not in worker.models:
            self._work.hold(worker, key)
        return self._send(worker, key, chunks)

    def _send(self, worker: Worker, key: str, chunks: int) -> int:
        """At most `chunks` chunks of what is left of a model; returns how many."""
        if self._work.left.get(key, 0) <= 0:
            return 0
        stay_s = (self._work.waiting_s(key) + self._work.soon_s(key)) / max(1, self._work.holders.get(key, 1))
        units = self._work.share(key)
        count = self._work.take(key, chunks, units)
        if count:
            self._actions.append(
                Send(
                    worker=worker.name,
                    model_key=key,
                    chunks=count,
                    units=None if units == self._work.chunk_units else units,
                    stay_s=stay_s,
                )
            )
        return count

    def _send_suspect(self, worker: Worker, keys: Sequence[str]) -> bool:
        """Suspects go to an empty worker only, after all that is not suspect."""
        for key in keys:
            if self._work.suspects.get(key, 0) > 0 and not worker.chunks:
                if not self._work.can_run(worker, self._work.queues[key]):
                    continue
                self._work.suspects[key] -= 1
                self._actions.append(Send(worker=worker.name, model_key=key, alone=True))
                return True
        return False

    def _announce(self, reserved: set[str]) -> None:
        """Name the next model of workers that have been sent all there is for the present one."""
        announced: set[str] = set()
        for worker in self._workers:
            if not worker.out or worker.is_unbounded or worker.is_alone or worker.name in reserved:
                continue
            queues = [self._work.queues[key] for key in worker.models if key in self._work.queues]
            if any(self._work.left[queue.model_key] or queue.soon or queue.upstream for queue in queues):
                continue
            key = self._choice.next(worker, skip=announced)
            if key is not None:
                announced.add(key)
                self._actions.append(Prefetch(worker=worker.name, model_key=key))

    def _has_work(self, worker: Worker) -> bool:
        return any(self._work.left.get(key, 0) > 0 for key in worker.models)
