"""Long runs: a worker killed again and again, and a soak. Minutes in the full form."""

import itertools
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest

from tests.faults import batch
from tests.faults.checker import check
from tests.faults.house import House, Run, lines
from tests.faults.ledger import Fault
from tests.waiting import until

SOAK_S = float(os.environ.get("MUSTER_SOAK_S", "1200"))
WHILE_S = min(600.0, SOAK_S / 2)
MIB = 1 << 20
FLAT, FLAT_BYTES = 0.02, 5 * MIB
"""What a process may grow by in `WHILE_S` of the second half of a soak: a share, or bytes if that is more.

Ten minutes; a shorter soak is not taken for longer than it was, for caches that fill once would look like a leak.
"""
SLOWER = 1.5
"""What kills may cost beside the time that killed workers are away."""


@pytest.mark.fault("1b", "a worker killed every few seconds")
@pytest.mark.timeout(3600)
def test_a_batch_whose_workers_are_killed_again_and_again_loses_no_line(
    house: House, fault: Fault, is_full: bool
) -> None:
    count = 10_000 if is_full else 1_000
    model = house.stub("one", latency_s=0.05)
    house.pool({"ada": model, "bob": model})
    undisturbed = batch.submit(house, batch.requests(count))
    undisturbed.wait_end(timeout_s=1500)
    every_s = 10.0 if is_full else min(2.0, undisturbed.took_s / 3)
    with fault.attempt():
        disturbed = batch.submit(house, batch.requests(count))
        down_s = _kill_in_turn(house, disturbed, every_s)
        check(fault, disturbed)
        assert down_s
        took_s, usual_s = disturbed.took_s, undisturbed.took_s
        fault.note = (
            f"{count} lines in {took_s:.0f} s with {len(down_s)} kills, in {usual_s:.0f} s with none"
            f" ({took_s / usual_s:.2f} times as long); after a kill a worker was away for"
            f" {statistics.mean(down_s):.1f} s in the mean"
        )
        if is_full:
            assert took_s <= SLOWER * usual_s + sum(down_s)


@pytest.mark.fault("25", "soak")
@pytest.mark.timeout(SOAK_S + 300)
def test_memory_stays_flat_over_a_soak(house: House, fault: Fault, is_full: bool) -> None:
    """24 hours are promised on paper: this shows twenty minutes of runs and queries without a growing process."""
    if not is_full:
        pytest.skip("minutes long: in the full form only")
    model = house.stub("one", latency_s=0.01)
    experts = house.pool({"ada": model, "bob": model, "cyd": house.stub("two", child=1)})
    samples: dict[str, list[tuple[float, int]]] = defaultdict(list)
    began_s = time.monotonic()
    with fault.attempt():
        while (passed_s := time.monotonic() - began_s) < SOAK_S:
            runs = house.submit(experts, lines(200)), batch.submit(house, batch.requests(50))
            for _ in range(10):
                assert house.ask("What is it? [stub:gold=7]", experts).status_code == 200
            for run in runs:
                run.wait_end(timeout_s=60)
                check(fault, run)
            for name, held in house.memory().items():
                samples[name].append((passed_s, held))
        settled = {name: held[len(held) // 2 :] for name, held in samples.items()}
        growth = {name: _slope(held) * WHILE_S for name, held in settled.items()}
        usual = {name: statistics.median(size for _, size in held) for name, held in settled.items()}
        told = ", ".join(f"{name} {usual[name] / MIB:.1f} {by / MIB:+.2f}" for name, by in growth.items())
        fault.note = f"{len(samples['api'])} rounds in {SOAK_S:.0f} s; MiB held, and growth in {WHILE_S:.0f} s: {told}"
        assert all(by <= max(FLAT * usual[name], FLAT_BYTES) for name, by in growth.items()), fault.note


def _slope(points: Sequence[tuple[float, int]]) -> float:
    """The median of the slopes between any two (Theil and Sen): what a few odd samples do not move."""
    pairs = itertools.combinations(points, 2)
    return statistics.median((later - sooner) / (then - now) for (now, sooner), (then, later) in pairs)


def _kill_in_turn(house: House, run: Run, every_s: float) -> list[float]:
    """kill -9 one worker after the other, each started again at once, until the run ends.

    Returns for how long each was away: until it spoke again.
    """
    next_s = time.monotonic() + every_s
    workers = itertools.cycle(house.workers)
    away: dict[str, float] = {}
    down_s: list[float] = []

    def are_back() -> bool:
        for name, killed_at in list(away.items()):
            state = house.state(name)
            if state is not None and state.at > killed_at:
                down_s.append(state.at - away.pop(name))
        return not away

    def look() -> bool:
        nonlocal next_s
        are_back()
        if time.monotonic() >= next_s:
            worker = next(workers)
            worker.kill()
            away[worker.name] = time.time()
            worker.start()
            next_s += every_s
        return run.has_ended()

    until(look, timeout_s=1500)
    until(are_back, timeout_s=30)
    return down_s
