"""The same work done otherwise: what the plan is compared with."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator import residency
from orchestrator.costs.costs_file import CostsFile
from orchestrator.simulation.simulation import Outcome, Simulation
from orchestrator.simulation.workload import ANNOTATE, FUSE, GENERATE, SimulatedModel, Workload


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What came of it."""

    makespan_s: float
    loads: int


def first_come(workload: Workload, costs: CostsFile, *, workers: int) -> Outcome:
    """First come, first served, batching what happens to be queued together.

    A worker that has run dry takes the model of the oldest unit, and of that model as much as its window holds.
    """

    def policy(queues: Sequence[residency.Queue], workers: Sequence[residency.Worker]) -> Sequence[residency.Action]:
        waiting = sorted((queue for queue in queues if queue.units), key=lambda each: (-each.oldest_s, each.model_key))
        left = {queue.model_key: queue.units for queue in waiting}
        sends: list[residency.Action] = []
        for worker in workers:
            key = next((queue.model_key for queue in waiting if left[queue.model_key] > 0), None)
            if worker.chunks or worker.loading or key is None:
                continue
            left[key] -= worker.window * costs.dispatch.chunk_units
            sends.append(residency.Send(worker=worker.name, model_key=key, chunks=worker.window))
        return sends

    return Simulation(workload, costs, workers=workers).run(policy)


def one_by_one(workload: Workload, costs: CostsFile, *, workers: int) -> Plain:
    """One question after another on each worker, alone in the engine, loading as needed.

    Recruits whose models are resident answer first.
    """
    memory = int(costs.device.memory_gb * costs.device.group * 1e9)
    devices: list[tuple[float, int]] = [(0.0, number) for number in range(workers)]
    resident: list[dict[int, SimulatedModel]] = [{} for _ in range(workers)]
    loads = 0
    for recruits in workload.recruits.tolist():
        now_s, number = heapq.heappop(devices)
        kept = resident[number]
        steps = [(workload.annotator, ANNOTATE)]
        steps += [(place, GENERATE) for place in sorted(recruits, key=lambda each: each not in kept)]
        for place, stage in [*steps, (workload.aggregator, FUSE)]:
            model = workload.models[place]
            if place not in kept:
                while kept and sum(each.costs.memory_bytes for each in (*kept.values(), model)) > memory:
                    del kept[next(iter(kept))]
                loads += 1
                now_s += model.costs.load_s
            kept.pop(place, None)
            kept[place] = model
            now_s += model.alone_s[stage]
        heapq.heappush(devices, (now_s, number))
    return Plain(makespan_s=max(now_s for now_s, _ in devices), loads=loads)


def fixed_order(workload: Workload, *, workers: int) -> Plain:
    """The paper's way: stage after stage, each expert loaded once and in the order of the list, then the aggregator.

    Annotator and aggregator run on every worker, each with its share of the questions; an expert runs on the worker
    that is free first. Nothing of a stage begins before all of the one before has ended.
    """
    units = workload.units()
    resident: list[int | None] = [None] * workers
    loads = 0

    def run(number: int, place: int, stage: int, count: float) -> float:
        nonlocal loads
        model = workload.models[place]
        is_new = resident[number] != place
        resident[number] = place
        loads += is_new
        return is_new * model.costs.load_s + max(count * model.unit_s[stage], model.alone_s[stage] if count else 0.0)

    def everywhere(place: int, stage: int) -> float:
        share = workload.instances / workers
        return max(run(number, place, stage, share) for number in range(workers))

    now_s = everywhere(workload.annotator, ANNOTATE)
    devices = [(now_s, number) for number in range(workers)]
    for place in np.flatnonzero(units[:, GENERATE]).tolist():
        free_s, number = heapq.heappop(devices)
        heapq.heappush(devices, (free_s + run(number, place, GENERATE, int(units[place, GENERATE])), number))
    now_s = max(free_s for free_s, _ in devices)
    return Plain(makespan_s=now_s + everywhere(workload.aggregator, FUSE), loads=loads)
