"""The lines of a run, read back with everything that happened to each."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlmodel import Session, col, select

from orchestrator.storage.tables import InstanceRow, UnitRow

BATCH = 200
"""Lines read at once: memory does not grow with the run."""


def results(session: Session, run_id: str, *, after: int = -1) -> Iterator[dict[str, Any]]:
    """Every line that is done and lies after the position `after`: decision, completions, votes, seeds."""
    while True:
        query = select(InstanceRow).where(
            InstanceRow.run_id == run_id, InstanceRow.position > after, InstanceRow.stage == "done"
        )
        rows = session.exec(query.order_by(col(InstanceRow.position)).limit(BATCH)).all()
        if not rows:
            return
        units: dict[int, list[UnitRow]] = {}
        of_rows = select(UnitRow).where(col(UnitRow.instance_id).in_([row.id for row in rows]))
        for unit in session.exec(of_rows.order_by(col(UnitRow.id))):
            units.setdefault(unit.instance_id, []).append(unit)
        for row in rows:
            assert row.id is not None
            yield _line(row, units.get(row.id, []))
        after = rows[-1].position
        for kept in (*rows, *(unit for group in units.values() for unit in group)):
            session.expunge(kept)


def _line(row: InstanceRow, units: Iterable[UnitRow]) -> dict[str, Any]:
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
