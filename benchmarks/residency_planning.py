"""The residency plan on simulated GPUs: makespan beside the lower bound and beside other ways to do the same work.

    .venv/bin/python -m benchmarks.residency_planning [--usage posterior] [--large]

`--large` adds 200 experts and 100,000 questions on 64 GPUs (a quarter of a minute).
"""

import argparse
from typing import Any

from orchestrator.costs import costs_file
from orchestrator.simulation import report

GPUS = (1, 2, 4, 8, 16)


def row(found: dict[str, Any]) -> str:
    cells = (
        found["gpus"],
        f"{found['makespan_s']:.0f}",
        f"{found['lower_bound_s']:.0f}",
        f"{found['ratio']:.3f}",
        found["loads"],
        f"{100 * found['idle_share']:.1f} %",
        f"{found['longest_wait_s']:.0f}",
        f"{found['first_come']['makespan_s']:.0f} ({found['first_come']['loads']})",
        f"{found['fixed_order']['makespan_s']:.0f} ({found['fixed_order']['loads']})",
        f"{found['naive_makespan_s']:.0f} ({found['naive_loads']})",
        f"{found['times_faster_than_naive']:.0f}",
        f"{found['plan_seconds']:.2f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description="The residency plan on simulated GPUs.")
    parser.add_argument("--usage", default=None)
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args()
    costs = costs_file.read()
    print("| GPUs | makespan, s | bound, s | ratio | loads | idle | longest wait, s | first come (loads)", end=" ")
    print("| fixed order (loads) | one by one (loads) | times faster | planning, s |")
    print("|" + "---|" * 12)
    for gpus in GPUS:
        done = report.simulate(costs, experts=16, instances=2100, k=3, gpus=gpus, usage=given.usage)
        print(row(done.report))
    if given.large:
        done = report.simulate(costs, experts=200, instances=100_000, k=3, gpus=64, usage=given.usage)
        print(row(done.report))


if __name__ == "__main__":
    main()
