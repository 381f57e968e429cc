"""Long runs: a worker killed again and again, and a soak. Minutes in the full form."""

import itertools
import os
import statistics
import time

import pytest

from tests.faults.checker import check
from tests.faults.house import LEASE_S, House, Run, lines
from tests.faults.ledger import Fault
from tests.waiting import until

SOAK_S = float(os.environ.get("MUSTER_SOAK_S", "1200"))
FLAT = 1.10
"""Memory at the end of a soak, by that of its first third, at most."""
SLOWER = 1.5
RESTART_S = LEASE_S + 5.0
"""A killed worker's chunks wait for their lease, and for Python to start again."""


@pytest.mark.fault("1b", "a worker killed every few seconds")
@pytest.mark.timeout(3600)
def test_a_run_whose_workers_are_killed_again_and_again_loses_no_line(
    house: House, fault: Fault, is_full: bool
) -> None:
    count, every_s = (10_000, 10.0) if is_full else (500, 2.0)
    experts = house.pool({"ada": house.stub("one", latency_s=0.05)})
    undisturbed = house.submit(experts, lines(count), k=1)
    undisturbed.wait_end(timeout_s=1500)
    with fault.attempt():
        run = house.submit(experts, lines(count), k=1)
        kills = _kill_in_turn(house, run, every_s)
        check(fault, run)
        assert kills
        fault.note = (
            f"{count} lines in {_seconds(run):.0f} s with {kills} kills, in {_seconds(undisturbed):.0f} s with none"
        )
        if is_full:
            assert _seconds(run) <= SLOWER * _seconds(undisturbed) + kills * RESTART_S


@pytest.mark.fault("25", "soak")
@pytest.mark.timeout(SOAK_S + 300)
def test_memory_stays_flat_over_a_soak(house: House, fault: Fault, is_full: bool) -> None:
    """24 hours are promised on paper: this shows twenty minutes of runs and queries without a growing process."""
    if not is_full:
        pytest.skip("minutes long: in the full form only")
    model = house.stub("one", latency_s=0.01)
    experts = house.pool({"ada": model, "bob": model})
    samples: dict[str, list[int]] = {name: [] for name in house.parts}
    began_s = time.monotonic()
    with fault.attempt():
        while time.monotonic() - began_s < SOAK_S:
            run = house.submit(experts, lines(200))
            for _ in range(10):
                assert house.ask("What is it? [stub:gold=7]", experts).status_code == 200
            run.wait_end(timeout_s=60)
            check(fault, run)
            for name, held in house.memory().items():
                samples[name].append(held)
        third = len(samples["api"]) // 3
        growth = {
            name: statistics.median(held[-third:]) / statistics.median(held[third // 2 : third + third // 2])
            for name, held in samples.items()
        }
        shares = ", ".join(f"{name} {value:.3f}" for name, value in growth.items())
        fault.note = (
            f"{len(samples['api'])} runs in {SOAK_S:.0f} s; memory at the end by that of its first third: {shares}"
        )
        assert all(value < FLAT for value in growth.values()), growth


def _kill_in_turn(house: House, run: Run, every_s: float) -> int:
    """kill -9 one worker after the other, each started again at once, until the run ends; returns how often."""
    next_s = time.monotonic() + every_s
    workers = itertools.cycle(house.workers)
    kills = 0

    def look() -> bool:
        nonlocal next_s, kills
        if time.monotonic() >= next_s:
            worker = next(workers)
            worker.kill()
            worker.start()
            kills, next_s = kills + 1, next_s + every_s
        return run.has_ended()

    until(look, timeout_s=1500)
    return kills


def _seconds(run: Run) -> float:
    ended = "SELECT extract(epoch FROM ended_at - created_at)::float FROM run WHERE id = :run"
    return float(run.house.value(ended, run=run.id))
