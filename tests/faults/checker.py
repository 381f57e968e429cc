"""The one check after each fault: nothing lost, nothing double, nothing computed again, the counts add up."""

import time
from collections import Counter
from dataclasses import dataclass

from tests.faults.house import House, Run
from tests.faults.ledger import Fault
from tests.waiting import until

GROWTH_BYTES = 40 << 20
"""A process that holds so much more than it did after its first work does not give memory back."""
_DONE = "SELECT id, extract(epoch FROM ended_at)::float AS at FROM unit WHERE run_id = :run AND state = 'done'"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a run's lines and units."""

    lost: int
    """Lines that are not in the results exactly once."""
    recomputed: int
    """Units that an engine began after they were committed."""
    failed: int
    """Lines that ended with an error."""
    starts: int
    """Engine starts of the run's units, all tries together."""


def judge(run: Run) -> Verdict:
    """Read the results as a client does, and the engines' own journal."""
    results = run.results()
    times = Counter(line["id"] for line in results)
    lost = sum(times[line_id] != 1 for line_id in run.line_ids) + len(set(times) - set(run.line_ids))
    wall_s = time.time() - time.monotonic()
    done_at = {row.id: row.at - wall_s for row in run.house.rows(_DONE, run=run.id)}
    units = {row.id for row in run.house.rows("SELECT id FROM unit WHERE run_id = :run", run=run.id)}
    starts = [(at, unit) for at, unit in run.house.starts() if unit in units]
    again = {unit for at, unit in starts if unit in done_at and at > done_at[unit]}
    return Verdict(
        lost=lost,
        recomputed=len(again),
        failed=sum(line["error"] is not None for line in results),
        starts=len(starts),
    )


def check(fault: Fault, run: Run, *, failed: int = 0, status: str = "completed") -> Verdict:
    """Assert what is promised of every run, whatever happened; `failed` lines with an error, and no more."""
    verdict = judge(run)
    fault.lost += verdict.lost
    fault.recomputed += verdict.recomputed
    assert verdict.lost == 0, f"{verdict.lost} lines are not in the results exactly once"
    assert verdict.recomputed == 0, f"{verdict.recomputed} units were computed again after they were committed"
    assert run.status == status
    assert verdict.failed == failed
    _check_counts(run, verdict)
    check_house(run.house)
    return verdict


def check_undisturbed(fault: Fault, run: Run) -> None:
    """`check`, of a run nothing of which was lost or begun twice: under leases that do not pass by chance."""
    assert check(fault, run).starts == run.units()
    assert run.units("attempts > 0") == run.losses() == run.lost_chunks() == 0


def _check_counts(run: Run, verdict: Verdict) -> None:
    counts = run.shown()["request_counts"]
    total = len(run.line_ids)
    assert counts == {"total": total, "completed": total - verdict.failed, "failed": verdict.failed}
    assert run.units("state IN ('pending', 'sent')") == 0
    in_totals = sum(entry["units"] for entry in run.shown()["totals"].get("units", []))
    assert in_totals == run.units()
    assert verdict.starts >= run.units("state = 'done'")
    still_out = run.house.value("SELECT count(*) FROM chunk WHERE run_id = :run AND state = 'sent'", run=run.id)
    assert still_out == 0


def check_house(house: House) -> None:
    """No process without a parent, and nobody who holds on to memory; parts that are down have left nothing."""
    until(lambda: not house.left_behind(), timeout_s=10)
    grown = {name: now - house.baseline[name] for name, now in house.memory().items()}
    assert all(growth < GROWTH_BYTES for growth in grown.values()), grown
