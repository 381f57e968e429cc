"""What an aggregator test found, for its report."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import statistics

_SCORES = sa.text(
    """
    SELECT name, "right", tried FROM aggregator_score JOIN expert ON expert.id = expert_id
    WHERE run_id = :run AND category = '' ORDER BY name
    """
)
_TRIALS = sa.text(
    """
    SELECT name, trials FROM synthesis_trials JOIN expert ON expert.id = expert_id WHERE run_id = :run ORDER BY name
    """
)
_COUNTED = ("right", "vote_right", "first_right")


def of(session: Session, run_id: str) -> dict[str, Any]:
    """Each expert's score on prepared completions, and beside counting them, on answers that recruits really gave."""
    return {
        "per_expert": {row.name: _score(row.right, row.tried) for row in session.execute(_SCORES, {"run": run_id})},
        "natural": {
            row.name: {"tried": len(row.trials)} | {name: sum(each[name] for each in row.trials) for name in _COUNTED}
            for row in session.execute(_TRIALS, {"run": run_id})
        },
    }


def _score(right: int, tried: int) -> dict[str, Any] | None:
    found = statistics.wilson(right, tried)
    return None if found is None else found.as_json()
