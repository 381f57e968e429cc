"""Queries first: a worker for each model that they wait for. Pure."""

from collections.abc import Sequence

from orchestrator.residency.actions import Load
from orchestrator.residency.work import Work
from orchestrator.residency.worker import Worker

DEMAND_STAY_S = 10.0
"""A model loaded for queries stays so long after the last of them, although bulk work waits for another."""


def is_held(worker: Worker) -> bool:
    """Whether queries keep the worker's model where it is."""
    return bool(worker.resident) and worker.online_idle_s is not None and worker.online_idle_s < DEMAND_STAY_S


def loads(work: Work, workers: Sequence[Worker]) -> list[tuple[Worker, Load | None]]:
    """A worker for each model that queries wait for, those that wait longest first.

    No load: the worker is busy, and gets no more bulk until it has run dry and loads.
    """
    found: list[tuple[Worker, Load | None]] = []
    wanted = [queue for queue in work.queues.values() if queue.demand_s is not None]
    for queue in sorted(wanted, key=lambda each: -(each.demand_s or 0.0)):
        key = queue.model_key
        if any(key in (*each.resident, *each.loading) for each in workers):
            continue
        taken = {worker.name for worker, _ in found}
        able = [each for each in workers if work.can_run(each, queue) and each.name not in taken and not each.loading]
        if able:
            worker = min(able, key=lambda each: (not each.is_unbounded, *_cost_s(work, each, key), each.name))
            is_now = worker.is_unbounded or not worker.chunks or _fits_beside(work, worker, key)
            found.append((worker, Load(worker=worker.name, model_key=key) if is_now else None))
    return found


def _cost_s(work: Work, worker: Worker, key: str) -> tuple[float, float]:
    """Until the model is ready there, as queries are told beforehand (`online/pricing.py`); and, where that is equal,
    what bringing back the worker's present models costs.
    """
    ready_s = work.ready_s(worker, key)
    if _fits_beside(work, worker, key):
        return (ready_s, 0.0)
    wait_s = sum(chunks * work.chunk_s(model) for model, chunks in worker.out.items())
    again_s = sum(work.costs(model).again_s for model in worker.models if work.left.get(model, 0) > 0)
    return (wait_s + ready_s, again_s)


def _fits_beside(work: Work, worker: Worker, key: str) -> bool:
    return bool(worker.models) and work.fits_beside(worker, key, kept=worker.models)
