"""A simulation's figures, beside the lower bound and other ways to do the same work."""

import time
from dataclasses import dataclass, field
from typing import Any

from orchestrator import residency
from orchestrator.costs.costs_file import CostsError, CostsFile
from orchestrator.simulation import baselines, bounds, simulation, workload
from orchestrator.simulation.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Simulated:
    report: dict[str, Any]
    workload: Workload = field(repr=False)
    outcome: simulation.Outcome = field(repr=False)


def simulate(
    costs: CostsFile, *, experts: int, instances: int, k: int, gpus: int, usage: str | None = None, seed: int = 0
) -> Simulated:
    """Simulate, and report as JSON values. Raises `CostsError` where the costs do not allow it."""
    begun = time.perf_counter()
    workers, rest = divmod(gpus, costs.device.group)
    if rest or not workers:
        raise CostsError(f"{gpus} GPUs do not make groups of {costs.device.group} ([device] group)")
    memory_bytes = int(costs.device.memory_gb * costs.device.group * 1e9)
    work = workload.build(costs, experts=experts, instances=instances, k=k, usage=usage, seed=seed)
    for place in work.used:
        _check_fits(work.models[place], costs, memory_bytes)
    outcome = simulation.planned(work, costs, workers=workers)
    least = bounds.bounds(work, workers=workers, memory_bytes=memory_bytes)
    first_come = baselines.first_come(work, costs, workers=workers)
    one_by_one = baselines.one_by_one(work, costs, workers=workers)
    fixed = baselines.fixed_order(work, workers=workers)
    stages = [frozenset([work.annotator]), frozenset(work.recruits.ravel().tolist()), frozenset([work.aggregator])]
    names = [frozenset(work.models[place].key for place in places) for places in stages]
    report = {
        "experts": experts,
        "instances": instances,
        "k": k,
        "gpus": gpus,
        "workers": workers,
        "usage": usage or costs.usage.get("default"),
        "seed": seed,
        "makespan_s": round(outcome.makespan_s, 3),
        "lower_bound_s": round(least.lower_bound_s, 3),
        "ratio": round(outcome.makespan_s / least.lower_bound_s, 4),
        "bounds": {
            "work_and_loads_s": round(least.work_s, 3),
            "longest_path_s": round(least.path_s, 3),
            "stages_s": round(least.stages_s, 3),
        },
        "loads": outcome.loads,
        "distinct_models": len(work.used),
        "fewest_loads_one_worker": residency.fewest_loads(names),
        "load_s": round(outcome.load_s, 3),
        "work_s": round(outcome.work_s, 3),
        "idle_s": round(outcome.idle_s, 3),
        "idle_share": round(outcome.idle_s / (workers * outcome.makespan_s), 4),
        "longest_wait_s": round(outcome.longest_wait_s, 3),
        "naive_makespan_s": round(one_by_one.makespan_s, 3),
        "naive_loads": one_by_one.loads,
        "times_faster_than_naive": round(one_by_one.makespan_s / outcome.makespan_s, 2),
        "first_come": {
            "makespan_s": round(first_come.makespan_s, 3),
            "loads": first_come.loads,
            "idle_s": round(first_come.idle_s, 3),
            "longest_wait_s": round(first_come.longest_wait_s, 3),
        },
        "fixed_order": {"makespan_s": round(fixed.makespan_s, 3), "loads": fixed.loads},
        "plans": outcome.plans,
        "plan_seconds": round(outcome.plan_seconds, 3),
        "seconds": round(time.perf_counter() - begun, 3),
    }
    return Simulated(report=report, workload=work, outcome=outcome)


def _check_fits(model: workload.SimulatedModel, costs: CostsFile, memory_bytes: int) -> None:
    if model.costs.devices > costs.device.group:
        raise CostsError(
            f"{model.key} needs {model.costs.devices} devices, but [device] group is {costs.device.group}: "
            "no worker can run it"
        )
    if model.costs.memory_bytes > memory_bytes:
        raise CostsError(
            f"{model.key} needs {model.costs.memory_bytes / 1e9:.1f} GB, but a worker has {memory_bytes / 1e9:.1f} GB"
        )
