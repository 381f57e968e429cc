"""`muster simulate` at the size that planning must keep up with."""

import pytest

from orchestrator.costs import costs_file
from orchestrator.simulation import bounds, simulation, workload


def test_two_hundred_experts_on_64_gpus_end_within_a_tenth_of_the_lower_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """100,000 questions. Planning is to take less than 10 s: the test says how long it took."""
    costs = costs_file.read()
    work = workload.build(costs, experts=200, instances=100_000, k=3, usage=None, seed=0)
    outcome = simulation.planned(work, costs, workers=64)
    least = bounds.bounds(work, workers=64, memory_bytes=int(costs.device.memory_gb * 1e9))
    with capsys.disabled():
        print(f"\nplanned {outcome.plans} times in {outcome.plan_seconds:.1f} s")  # noqa: T201  is what it is for
    assert outcome.work_s == pytest.approx(work.work_s().sum())
    assert outcome.makespan_s <= 1.10 * least.lower_bound_s
