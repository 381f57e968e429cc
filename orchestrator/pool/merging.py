"""What is known of a pool's experts as aggregators: scores in the synthetic test, trials on real answers."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlmodel import Session, col, select

from orchestrator.fusion import synthesis
from orchestrator.fusion.synthesis import Synthesis
from orchestrator.storage import stored
from orchestrator.storage.tables import AggregatorScoreRow, ExpertRow, QuestionSetRow, SynthesisTrialsRow

AggregatorScores = Mapping[str, Mapping[str, tuple[int, int]]]


def newest_scores(
    session: Session, rows: Sequence[ExpertRow], set_row: QuestionSetRow
) -> dict[str, dict[str, tuple[int, int]]]:
    """Each expert's newest score per category on this question set."""
    names = {row.id: row.name for row in rows}
    query = (
        select(AggregatorScoreRow)
        .where(AggregatorScoreRow.question_set_id == set_row.id, col(AggregatorScoreRow.expert_id).in_(names))
        .order_by(col(AggregatorScoreRow.id))
    )
    scores: dict[str, dict[str, tuple[int, int]]] = {}
    for row in session.exec(query):
        scores.setdefault(names[row.expert_id], {})[row.category] = (row.right, row.tried)
    return scores


def newest_trial_ids(session: Session, rows: Sequence[ExpertRow], set_row: QuestionSetRow) -> dict[str, int]:
    """Each expert's newest row of trials on this question set."""
    names = {row.id: row.name for row in rows}
    query = (
        select(SynthesisTrialsRow.expert_id, sa.func.max(SynthesisTrialsRow.id))
        .where(SynthesisTrialsRow.question_set_id == set_row.id, col(SynthesisTrialsRow.expert_id).in_(names))
        .group_by(col(SynthesisTrialsRow.expert_id))
    )
    return {names[expert_id]: row_id for expert_id, row_id in session.exec(query) if row_id}


def trials(session: Session, ids: Mapping[str, int]) -> dict[str, SynthesisTrialsRow]:
    """Expert name -> its row, from the ids of the rows."""
    query = select(SynthesisTrialsRow).where(col(SynthesisTrialsRow.id).in_(ids.values()))
    found = {row.id: row for row in session.exec(query)}
    return {name: found[row_id] for name, row_id in sorted(ids.items())}


def learnt(rows: Sequence[ExpertRow], tried: Mapping[str, SynthesisTrialsRow]) -> Synthesis:
    """What the trials show for a pool of these experts: those count in which only they had answered."""
    present = {row.id for row in rows}
    return synthesis.learn(
        {
            name: [stored.trial_of(trial) for trial in row.trials if present.issuperset(trial["experts"])]
            for name, row in tried.items()
        }
    )
