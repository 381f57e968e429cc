"""Two benchmarks on the same questions, line by line: which was right more often, and is that more than chance?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import statistics
from orchestrator.runs import runs, spending
from orchestrator.runs.pinned import Pinned, seed_for
from orchestrator.runs.report import versions
from orchestrator.runs.runs import RunRefused
from orchestrator.storage.tables import RunRow

_PAIRS = sa.text(
    """
    SELECT a.question->>'category' AS category, a.correct AS first, b.correct AS second
    FROM instance a JOIN instance b ON b.run_id = :second AND b.custom_id = a.custom_id
        AND b.question->'text' = a.question->'text' AND b.question->'options' = a.question->'options'
        AND b.question->'answer' = a.question->'answer'
    WHERE a.run_id = :first AND a.stage = 'done' AND b.stage = 'done' ORDER BY a.position
    """
)
_DONE = sa.text("SELECT count(*) FROM instance WHERE run_id = :run AND stage = 'done'")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One question, answered in both runs."""

    category: str
    first: bool
    second: bool


def of(session: Session, first_id: str, second_id: str) -> dict[str, Any]:
    """The comparison as JSON; differences are the second's accuracy minus the first's.

    Of runs under way: of the lines that are done in both. Raises `runs.UnknownRun`, and `RunRefused` for runs that
    are no benchmarks or share no question.
    """
    first, second = (_benchmark(session, run_id) for run_id in (first_id, second_id))
    rows = session.execute(_PAIRS, {"first": first_id, "second": second_id})
    pairs = [Pair(category=row.category or "(none)", first=bool(row.first), second=bool(row.second)) for row in rows]
    if not pairs:
        raise RunRefused(f"{first_id} and {second_id} have no answered question in common", param="compare")
    seed = seed_for(first_id, second_id)
    return {
        "object": "benchmark.comparison",
        "first": _run(session, first),
        "second": _run(session, second),
        "lines": {
            "compared": len(pairs),
            "only_in_first": session.execute(_DONE, {"run": first_id}).scalar_one() - len(pairs),
            "only_in_second": session.execute(_DONE, {"run": second_id}).scalar_one() - len(pairs),
        },
        **compare(pairs, seed=seed),
        "per_category": {name: compare(group, seed=seed) for name, group in _by_category(pairs).items()},
    }


def compare(pairs: Sequence[Pair], *, seed: int) -> dict[str, Any]:
    """Accuracies on the same lines, their difference with its paired bootstrap interval, and McNemar's test."""
    only_first = sum(pair.first and not pair.second for pair in pairs)
    only_second = sum(pair.second and not pair.first for pair in pairs)
    return {
        "accuracy": {
            "first": _json(statistics.wilson(sum(pair.first for pair in pairs), len(pairs))),
            "second": _json(statistics.wilson(sum(pair.second for pair in pairs), len(pairs))),
        },
        "difference": _json(statistics.bootstrap([float(p.second) - float(p.first) for p in pairs], seed=seed)),
        "mcnemar": {
            "both_right": sum(pair.first and pair.second for pair in pairs),
            "only_first_right": only_first,
            "only_second_right": only_second,
            "neither_right": sum(not pair.first and not pair.second for pair in pairs),
            "p_value": round(statistics.mcnemar(only_first, only_second), 6),
        },
    }


def _benchmark(session: Session, run_id: str) -> RunRow:
    run = runs.get(session, run_id)
    if run.kind != "benchmark":
        raise RunRefused(f"{run_id} is no benchmark but a {run.kind}", param="compare")
    return run


def _run(session: Session, run: RunRow) -> dict[str, Any]:
    pinned = Pinned.model_validate(run.pinned)
    spent = spending.of(session, run, pinned)
    return {
        "run": run.id,
        "name": run.name,
        "status": run.status,
        "settings": pinned.model_dump(mode="json", include={"k", "strategy", "fusion", "annotation", "seed"}),
        "versions": versions(pinned),
        "seconds": spent["seconds"],
        "calls": spent["units"]["calls"],
        "tokens": sum(stage["prompt_tokens"] + stage["completion_tokens"] for stage in spent["stages"].values()),
        "loads": spent["loads"]["made"],
    }


def _by_category(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.category].append(pair)
    return dict(sorted(groups.items()))


def _json(estimate: statistics.Estimate | None) -> Any:
    return None if estimate is None else estimate.as_json()
