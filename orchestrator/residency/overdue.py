"""Nobody starves: who gets a worker because of age. Pure.

Units of a model that no worker serves are overdue as soon as they are older by `GRACE_S` than what a worker would go on
with: that worker lets its window run dry and takes them. So nothing that came more than `GRACE_S` after a unit goes
before it, but for what was out already. Suspects likewise. Queries, those that hold a model and those that wait for
one, give way once in `BULK_TURN_S`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.residency import online
from orchestrator.residency.choice import Choice
from orchestrator.residency.work import Work
from orchestrator.residency.worker import Worker

GRACE_S = 1800.0
"""Work for a resident model goes before older work for another, up to this difference in age."""
BULK_TURN_S = 60.0
"""A worker that has held no chunk for so long may be taken from queries for overdue work."""
_NOTHING: tuple[str | None, float] = (None, float("-inf"))
"""What a worker goes on with that has no bulk to go on with."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A worker is to take a model's overdue units next, as soon as its window has run dry."""

    worker: Worker
    model_key: str
    alone: bool
    """The units are suspects."""


def turns(work: Work, choice: Choice, workers: Sequence[Worker], *, reserved: Collection[str]) -> list[Turn]:
    """A worker for each overdue model, the oldest first.

    `reserved` names workers that queries wait for: they are taken only after `BULK_TURN_S` without a chunk, and if no
    other can have the turn.
    """
    served = {key for worker in workers for key in worker.in_use}
    waiting = [
        (queue.oldest_s, queue.model_key, False)
        for queue in work.queues.values()
        if queue.units and queue.oldest_s >= GRACE_S and queue.model_key not in served
    ]
    waiting += [
        (queue.suspect_s, queue.model_key, True)
        for queue in work.queues.values()
        if queue.suspects and queue.suspect_s >= GRACE_S
    ]
    if not waiting:
        return []
    free = {
        worker.name: (worker, *(_NOTHING if worker.name in reserved else _present(work, choice, worker)))
        for worker in workers
        if not (worker.is_unbounded or worker.is_alone or worker.loading)
        and not _belongs_to_queries(work, worker, is_reserved=worker.name in reserved)
    }
    found: list[Turn] = []
    for age_s, key, alone in sorted(waiting, key=lambda each: (-each[0], each[1])):
        able = [
            worker
            for worker, present, present_s in free.values()
            if work.can_run(worker, work.queues[key])
            and (age_s - present_s > GRACE_S or (present == key and not alone and not worker.chunks))
        ]
        if able:
            worker = min(
                able, key=lambda each: (each.name in reserved, key not in each.resident, each.chunks, each.name)
            )
            del free[worker.name]
            found.append(Turn(worker=worker, model_key=key, alone=alone))
    return found


def _belongs_to_queries(work: Work, worker: Worker, *, is_reserved: bool) -> bool:
    has_bulk = any(work.left.get(key, 0) > 0 for key in worker.models)
    is_theirs = is_reserved or (online.is_held(worker) and not has_bulk)
    return is_theirs and worker.bulk_idle_s < BULK_TURN_S


def _present(work: Work, choice: Choice, worker: Worker) -> tuple[str | None, float]:
    """The model with the oldest unit that the worker would go on with, and that one's age; else of the next model."""
    keys = [key for key in worker.models if work.left.get(key, 0) > 0]
    if not keys and (following := choice.next(worker)) is not None:
        keys = [following]
    if not keys:
        return _NOTHING
    age_s, oldest = max((work.queues[key].oldest_s, key) for key in keys)
    return oldest, age_s
