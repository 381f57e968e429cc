"""The residency plan beside OR-tools' CP-SAT on the same work: 16 experts, 2,100 questions, k=3, 8 GPUs.

    uv venv -q --python 3.11 .muster/solver
    uv pip install -q --python .muster/solver --require-hashes -r locks/benchmarks.lock
    .muster/solver/bin/python -m benchmarks.residency_solver [--gpus 8] [--limit-s 75] [--workers 2]

An environment of its own: OR-tools needs an older protobuf than the engine does.

The solver knows everything beforehand: who is recruited for what, and all costs. It is given two problems.

Without precedence: how much of each model's work each device does, and hence which models it loads. Every real schedule
solves this one, so that what is proven for it is proven for all of them.

With precedence, in steps of a third of the reference's load:

- in each step a device loads one model or computes with one; devices are alike, so that only their number counts;
- a model's load takes its time rounded down to whole steps, and at least one;
- precedence holds in the sum, not question by question: no more units of an expert are done than questions annotated,
  no more fused than any expert, or all together, have left to answer.

The last two make its schedules shorter than any that is really possible; the rounding up to whole steps makes them
longer, by at most one step at the end and some of a step at each switch: nothing is proven by these.
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


def assign(work: Workload, *, workers: int, limit_s: float, threads: int) -> dict[str, Any]:
    """The shortest makespan without precedence that it finds, and the shortest it cannot exclude."""
    model = cp_model.CpModel()
    work_ms = [round(each * 1000) for each in work.work_s()]
    makespan = model.new_int_var(0, sum(work_ms), "makespan")
    spent: list[list[Any]] = [[] for _ in range(workers)]
    for place in work.used:
        load_ms = round(work.models[place].costs.load_s * 1000)
        parts = []
        for device in range(workers):
            part = model.new_int_var(0, work_ms[place], f"work {place} {device}")
            loaded = model.new_bool_var(f"load {place} {device}")
            model.add(part <= work_ms[place] * loaded)
            spent[device] += [part, load_ms * loaded]
            parts.append(part)
        model.add(sum(parts) == work_ms[place])
    for device in range(workers):
        model.add(sum(spent[device]) <= makespan)
    model.minimize(makespan)
    return run(model, scale_s=0.001, limit_s=limit_s, threads=threads)


def schedule(
    work: Workload, *, workers: int, step_s: float, horizon: int, limit_s: float, threads: int
) -> dict[str, Any]:
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
    return run(model, scale_s=step_s, limit_s=limit_s, threads=threads)


def run(model: Any, *, scale_s: float, limit_s: float, threads: int) -> dict[str, Any]:
    """Solve; the objective times `scale_s` is seconds."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = threads
    begun = time.perf_counter()
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return {
        "status": solver.status_name(status),
        "makespan_s": solver.objective_value * scale_s if found else math.nan,
        "bound_s": solver.best_objective_bound * scale_s,
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The residency plan beside CP-SAT.")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--limit-s", type=float, default=75.0, help="for each of the two problems")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--usage", default=None)
    given = parser.parse_args()
    costs = costs_file.read()
    work = workload.build(costs, experts=16, instances=2100, k=3, usage=given.usage, seed=0)
    ours = simulation.planned(work, costs, workers=given.gpus)
    least = bounds.bounds(work, workers=given.gpus, memory_bytes=int(costs.device.memory_gb * 1e9))
    step_s = costs.reference.load_s / STEPS_PER_LOAD
    horizon = math.ceil(ours.makespan_s * SPARE / step_s)
    print(f"Muster's plan: {ours.makespan_s:.1f} s, {ours.loads} loads; bound: {least.lower_bound_s:.1f} s")
    threads, limit_s = given.workers, given.limit_s
    solved = {
        "without precedence": assign(work, workers=given.gpus, limit_s=limit_s, threads=threads),
        f"in steps of {step_s:.1f} s": schedule(
            work, workers=given.gpus, step_s=step_s, horizon=horizon, limit_s=limit_s, threads=threads
        ),
    }
    for name, found in solved.items():
        print(
            f"CP-SAT, {name}: {found['makespan_s']:.1f} s, bound {found['bound_s']:.1f} s "
            f"({found['status']} after {found['seconds']:.0f} s); Muster's plan / this: "
            f"{ours.makespan_s / found['makespan_s']:.3f}"
        )


if __name__ == "__main__":
    main()
