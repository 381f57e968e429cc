"""The residency plan beside OR-tools' CP-SAT on the same work: 16 experts, 2,100 questions, k=3, 8 GPUs.

    uv venv -q --python 3.11 .muster/solver
    uv pip install -q --python .muster/solver --require-hashes -r locks/benchmarks.lock
    .muster/solver/bin/python -m benchmarks.residency_solver [--gpus 8] [--limit-s 75] [--workers 2]

An environment of its own: OR-tools needs an older protobuf than the engine does.

The solver knows everything beforehand: who is recruited for what, and all costs; and it is spared precedence: it only
says how much of each model's work each device does, and hence which models it loads. Every real schedule solves this,
so that its makespan is the shorter one, and what it proves is proven for all schedules.
"""

import argparse
import math
import time
from typing import Any

from ortools.sat.python import cp_model

from orchestrator.costs import costs_file
from orchestrator.simulation import bounds, simulation, workload
from orchestrator.simulation.workload import Workload


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
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = threads
    begun = time.perf_counter()
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return {
        "status": solver.status_name(status),
        "makespan_s": solver.objective_value / 1000 if found else math.nan,
        "bound_s": solver.best_objective_bound / 1000,
        "seconds": time.perf_counter() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The residency plan beside CP-SAT.")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--limit-s", type=float, default=75.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--usage", default=None)
    given = parser.parse_args()
    costs = costs_file.read()
    work = workload.build(costs, experts=16, instances=2100, k=3, usage=given.usage, seed=0)
    ours = simulation.planned(work, costs, workers=given.gpus)
    least = bounds.bounds(work, workers=given.gpus, memory_bytes=int(costs.device.memory_gb * 1e9))
    print(f"Muster's plan: {ours.makespan_s:.1f} s, {ours.loads} loads; bound: {least.lower_bound_s:.1f} s")
    found = assign(work, workers=given.gpus, limit_s=given.limit_s, threads=given.workers)
    print(
        f"CP-SAT, without precedence: {found['makespan_s']:.1f} s, proven bound {found['bound_s']:.1f} s "
        f"({found['status']} after {found['seconds']:.0f} s)"
    )
    print(f"Muster's plan / CP-SAT's: {ours.makespan_s / found['makespan_s']:.3f}")


if __name__ == "__main__":
    main()
