"""How far a run is, at one moment: counts per stage and per expert, its rate, and the time it still needs."""

import time
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.runs import runs

RECENT_S = 30.0
"""The rate is that of the last so many seconds."""

_LINES = sa.text(
    """
    SELECT stage, count(*) AS lines, count(*) FILTER (WHERE error IS NOT NULL) AS failed,
        count(*) FILTER (WHERE ended_at > now() - make_interval(secs => :recent_s)) AS recent,
        count(*) FILTER (WHERE correct) AS correct
    FROM instance WHERE run_id = :run GROUP BY stage
    """
)
_UNITS = sa.text(
    """
    SELECT expert, stage, state, count(*) AS units,
        count(*) FILTER (WHERE ended_at > now() - make_interval(secs => :recent_s)) AS recent
    FROM unit WHERE run_id = :run GROUP BY expert, stage, state ORDER BY expert, stage, state
    """
)
_LOADS = sa.text("SELECT count(*) AS loads, coalesce(sum(seconds), 0) AS seconds FROM load WHERE run_id = :run")
_ELAPSED = sa.text("SELECT extract(epoch FROM coalesce(ended_at, now()) - created_at)::float FROM run WHERE id = :run")


def snapshot(session: Session, run_id: str) -> dict[str, Any]:
    """The run's progress as JSON. Raises `runs.UnknownRun`.

    `lines`: total, done, failed, correct. `stages`: lines in each. `experts`: units waiting, sent, done, failed.
    `units_per_s` and `lines_per_s` are recent; `eta_s` is None while nothing can be said.
    """
    run = runs.get(session, run_id)
    window = {"run": run_id, "recent_s": RECENT_S}
    lines = session.execute(_LINES, window).all()
    units = session.execute(_UNITS, window).all()
    loads = session.execute(_LOADS, {"run": run_id}).one()
    elapsed_s = float(session.execute(_ELAPSED, {"run": run_id}).scalar() or 0.0)
    # Of a batch that is still read: the lines found so far.
    total = run.pinned["lines"] or sum(row.lines for row in lines)
    done = sum(row.lines for row in lines if row.stage == "done")
    recent_s = max(1e-3, min(RECENT_S, elapsed_s))
    is_open = run.status in runs.OPEN_STATUSES
    units_per_s = sum(row.recent for row in units) / recent_s if is_open else 0.0
    return {
        "run": run_id,
        "kind": run.kind,
        "name": run.name,
        "status": run.status,
        "at": round(time.time(), 3),
        "lines": {
            "total": total,
            "done": done,
            "failed": sum(row.failed for row in lines),
            "correct": sum(row.correct for row in lines),
        },
        "stages": {row.stage: row.lines for row in lines},
        "experts": _experts(units),
        "loads": {"made": loads.loads, "seconds": round(loads.seconds, 3), "planned": run.pinned.get("planned_loads")},
        "elapsed_s": round(elapsed_s, 3),
        "units_per_s": round(units_per_s, 3),
        "lines_per_s": round(sum(row.recent for row in lines) / recent_s, 3) if is_open else 0.0,
        "eta_s": _eta(run.pinned, total, lines, units, units_per_s) if is_open else None,
    }


def _experts(units: Any) -> dict[str, dict[str, int]]:
    experts: dict[str, dict[str, int]] = {}
    for row in units:
        own = experts.setdefault(row.expert, {"pending": 0, "sent": 0, "done": 0, "failed": 0})
        own[row.state] += row.units
    return experts


def _eta(pinned: Any, total: int, lines: Any, units: Any, units_per_s: float) -> float | None:
    """Units that wait, and those that lines not yet recruited will probably need, at the recent rate."""
    if units_per_s <= 0:
        return None
    open_units = sum(row.units for row in units if row.state in ("pending", "sent"))
    staged = sum(row.lines for row in lines if row.stage not in ("annotate", "recruit"))
    made = sum(row.units for row in units if row.stage != "annotate")
    expected_per_line = made / staged if staged else float(pinned.get("k") or 1)
    unstaged = total - staged
    return float(round((open_units + unstaged * expected_per_line) / units_per_s, 1))
