"""The lines of a run, read back with everything that happened to each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlmodel import Session, col, select

from orchestrator.storage.tables import InstanceRow, RunRow, UnitRow

BATCH = 200
"""Lines read at once: memory does not grow with the run."""


OpenSession = Callable[[], AbstractContextManager[Session]]


def results(open_session: OpenSession, run_id: str, *, after: int = -1) -> Iterator[dict[str, Any]]:
    """Every line that is done and lies after the position `after`: decision, completions, votes, seeds.

    A session for each `BATCH` of lines, closed before the first of them is given out: whoever reads slowly, or
    not at all, holds no connection and no transaction.
    """
    while True:
        with open_session() as session:
            page = _page(session, run_id, after)
        if not page:
            return
        yield from page
        after = page[-1]["position"]


def _page(session: Session, run_id: str, after: int) -> list[dict[str, Any]]:
    query = select(InstanceRow).where(
        InstanceRow.run_id == run_id, InstanceRow.position > after, InstanceRow.stage == "done"
    )
    rows = session.exec(query.order_by(col(InstanceRow.position)).limit(BATCH)).all()
    units: dict[int, list[UnitRow]] = {}
    of_rows = select(UnitRow).where(col(UnitRow.instance_id).in_([row.id for row in rows]))
    for unit in session.exec(of_rows.order_by(col(UnitRow.id))):
        units.setdefault(unit.instance_id, []).append(unit)
    pool = session.get_one(RunRow, run_id).pinned.get("pool") or {}
    versions = pool.get("expert_versions", {})
    return [_line(row, units.get(row.id or 0, []), versions) for row in rows]


def _line(row: InstanceRow, units: Iterable[UnitRow], versions: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": row.custom_id,
        "position": row.position,
        "question": row.question,
        "answer": row.answer,
        "correct": row.correct,
        "error": row.error,
        "decision": row.decision,
        "answers": row.answers,
        "fused": row.fused,
        "completions": [
            {
                "stage": unit.stage,
                "round": unit.round,
                "expert": unit.expert,
                "version": versions.get(unit.expert),
                "sample": unit.sample,
                "state": unit.state,
                "attempts": unit.attempts,
                "losses": unit.losses,
                "seed": unit.request.get("sampling", {}).get("seed"),
                **(unit.completion or {}),
            }
            for unit in units
        ],
    }
