"""The residency plan beside OR-tools' CP-SAT on the same work: 16 experts, 2,100 questions, k=3, 8 GPUs.

    uv venv -q --python 3.11 .muster/solver
    uv pip install -q --python .muster/solver --require-hashes -r locks/benchmarks.lock
    .muster/solver/bin/python -m benchmarks.residency_solver [--gpus 8] [--limit-s 150] [--workers 2]

An environment of its own: OR-tools needs an older protobuf than the engine does. The solver knows everything beforehand: who is recruited for what, and all costs.
It is given the problem in steps of a third of the reference's load:

- in each step a device loads one model or computes with one; devices are alike, so that only their number counts;
- a model's load takes its time rounded down to whole steps, and at least one;
- precedence holds in the sum, not question by question: no more units of an expert are done than questions annotated,
  no more fused than any expert, or all together, have left to answer.

The last two make its schedules shorter than any that is really possible; the rounding up to whole steps makes them
longer, by at most one step at the end and some of a step at each switch. What it proves is proven for this model
alone; the bound of `muster simulate`, printed beside it, holds for every schedule.
"""

import argparse
import math
import time
from typing import Any

from ortools.sat.python import cp_model

from orchestrator.costs import costs_file
from orchestrator.simulation import bounds, simulation, workload
from orchestrator.simulation.workload import ANNOTATE, FUSE, GENERATE, Workload

STEPS_PER_LOAD = 3
SPARE = 1.25
"""Steps that the solver is given, beside our own makespan."""


def solve(work: Workload, *, workers: int, step_s: float, horizon: int, limit_s: float, threads: int) -> dict[str, Any]:
    """The fewest steps it finds, and the fewest it can prove to be needed."""
    model = cp_model.CpModel()
    units = work.units()
    steps = range(horizon)
    used = work.used
    done: dict[tuple[int, int], list[Any]] = {}
    occupied: list[list[Any]] = [[] for _ in steps]
    makespan = model.new_int_var(1, horizon, "makespan")
    for place in used:
        costs = work.models[place]
        load_steps = max(1, math.floor(costs.costs.load_s / step_s + 1e-6))
        ready = [model.new_int_var(0, workers, f"ready {place} {step}") for step in steps]
        starts = [model.new_int_var(0, workers, f"load {place} {step}") for step in steps]
        for step in steps:
            before = ready[step - 1] if step else 0
            loaded = starts[step - load_steps] if step >= load_steps else 0
            model.add(ready[step] <= before + loaded)
            occupied[step].append(ready[step])
            occupied[step] += starts[max(0, step - load_steps + 1) : step + 1]
        spent: list[list[Any]] = [[] for _ in steps]
        for stage in (ANNOTATE, GENERATE, FUSE):
            count = int(units[place, stage])
            if not count:
                continue
            unit_ms = round(costs.unit_s[stage] * 1000)
            each = [model.new_int_var(0, count, f"done {place} {stage} {step}") for step in steps]
            model.add(sum(each) == count)
            for step in steps:
                spent[step].append(each[step] * unit_ms)
            done[place, stage] = each
        for step in steps:
            if spent[step]:
                model.add(sum(spent[step]) <= ready[step] * round(step_s * 1000))
    for step in steps:
        model.add(sum(occupied[step]) <= workers)
        annotated = sum(done[work.annotator, ANNOTATE][: step + 1])
        fused = sum(done[work.aggregator, FUSE][: step + 1])
        answered = []
        for place in used:
            if (place, GENERATE) in done:
                so_far = sum(done[place, GENERATE][: step + 1])
                answered.append(so_far)
                model.add(so_far <= annotated)
                model.add(fused <= work.instances - int(units[place, GENERATE]) + so_far)
        model.add(sum(answered) <= work.k * annotated)
        model.add(work.k * fused <= sum(answered))
        busy = model.new_bool_var(f"busy {step}")
        for key, each in done.items():
            if key[1] == FUSE:
                model.add(each[step] <= work.instances * busy)
        model.add(makespan >= (step + 1) * busy)
    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = threads
    begun = time.perf_counter()
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return {
        "status": solver.status_name(status),
        "makespan_s": solver.objective_value * step_s if found else math.nan,
        "bound_s": solver.best_objective_bound * step_s,
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The residency plan beside CP-SAT.")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--limit-s", type=float, default=150.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--usage", default=None)
    given = parser.parse_args()
    costs = costs_file.read()
    work = workload.build(costs, experts=16, instances=2100, k=3, usage=given.usage, seed=0)
    ours = simulation.planned(work, costs, workers=given.gpus)
    least = bounds.bounds(work, workers=given.gpus, memory_bytes=int(costs.device.memory_gb * 1e9))
    step_s = costs.reference.load_s / STEPS_PER_LOAD
    horizon = math.ceil(ours.makespan_s * SPARE / step_s)
    found = solve(
        work, workers=given.gpus, step_s=step_s, horizon=horizon, limit_s=given.limit_s, threads=given.workers
    )
    print(f"Muster's plan: {ours.makespan_s:.1f} s, {ours.loads} loads")
    print(
        f"CP-SAT ({found['status']}, {found['seconds']:.0f} s): {found['makespan_s']:.1f} s in steps of {step_s:.1f} s,"
    )
    print(f"  its bound: {found['bound_s']:.1f} s; bound of any schedule: {least.lower_bound_s:.1f} s")
    print(f"Muster's plan / CP-SAT's: {ours.makespan_s / found['makespan_s']:.3f}")


if __name__ == "__main__":
    main()
