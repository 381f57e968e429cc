"""What no plan can beat."""

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.simulation.workload import ANNOTATE, FUSE, GENERATE, Workload

PRECISION_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower bounds of the makespan, each valid for itself, starting with empty devices."""

    work_s: float
    """Work and the least loads, spread over all devices (`_least_s`)."""
    path_s: float
    """The longest instance: load of the annotator, then its three units, each as fast as it can be alone."""
    stages_s: float
    """Each stage's work spread over all devices, between the fastest way to its first unit and from its last one."""

    @property
    def lower_bound_s(self) -> float:
        return max(self.work_s, self.path_s, self.stages_s)


def bounds(workload: Workload, *, workers: int, memory_bytes: int) -> Bounds:
    models = workload.models
    first, last = models[workload.annotator], models[workload.aggregator]
    generated = [models[place] for place in set(np.unique(workload.recruits).tolist())]
    head_s = first.costs.load_s + first.alone_s[ANNOTATE]
    quickest_s = min(model.alone_s[GENERATE] for model in generated)
    slowest_s = max(model.alone_s[GENERATE] for model in generated)
    each = np.array([model.unit_s for model in models])
    annotate_s, generate_s, fuse_s = (workload.units() * each).sum(axis=0) / workers
    tail_s = last.alone_s[FUSE]
    return Bounds(
        work_s=_least_s(workload, workers=workers, memory_bytes=memory_bytes),
        path_s=head_s + slowest_s + tail_s,
        stages_s=max(
            first.costs.load_s + annotate_s + quickest_s + tail_s,
            head_s + generate_s + tail_s,
            head_s + quickest_s + fuse_s,
        ),
    )


def _least_s(workload: Workload, *, workers: int, memory_bytes: int) -> float:
    """The smallest T for which devices have the time: sum over models of w + s · max(1, ⌈w / (T - s)⌉) ≤ D · T.

    w is a model's work in full batches, s its load. A device that loads the model has at most T - s left for it, so
    that at least ⌈w / (T - s)⌉ devices load it. Where two models fit into one device together, a load may go on beside
    work and takes no time from it: then loads count only for the model itself (T ≥ s + w / D).
    """
    used = workload.used
    work_s = workload.work_s()
    sizes = sorted(workload.models[place].costs.memory_bytes for place in used)
    beside = len(sizes) > 1 and sizes[0] + sizes[1] <= memory_bytes
    loads_s = {place: workload.models[place].costs.load_s for place in used}

    def fits(limit_s: float) -> bool:
        total_s = 0.0
        for place in used:
            room_s = limit_s - loads_s[place]
            if room_s <= 0 or work_s[place] > workers * room_s:
                return False
            total_s += work_s[place]
            total_s += 0.0 if beside else loads_s[place] * max(1, math.ceil(work_s[place] / room_s - 1e-9))
        return total_s <= workers * limit_s

    low_s, high_s = 0.0, float(work_s.sum() + sum(loads_s.values())) + 1.0
    while high_s - low_s > PRECISION_S:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (low_s, middle_s) if fits(middle_s) else (middle_s, high_s)
    return low_s
