"""An aggregator test's stages: every expert merges the same prepared completions; who ends on the right answer?"""

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from orchestrator import aggregators
from orchestrator.aggregators import Merged
from orchestrator.pool import pool, question_sets
from orchestrator.pool.pool import Pool
from orchestrator.runs import asking, runs
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.work import Batch, Instance, units_of
from orchestrator.settings import Settings
from orchestrator.storage import stored
from orchestrator.storage.tables import AggregatorScoreRow, InstanceRow, ProfileRow, QuestionSetRow, UnitRow

ITEMS_MAX = 24
"""Per test: enough to tell a good aggregator from a bad one, and short beside a profile."""

log = structlog.get_logger()


def ask(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """First have every expert merge the item; then, when all have, write down what each ended on."""
    batch = Batch()
    units = units_of(session, instances)
    for instance in instances:
        own = units.get(instance.id, [])
        if own:
            answers = {unit.expert: {"answer": unit.answered(instance.question).answer} for unit in own}
            batch.move(instance, "done", answers=answers)
            continue
        answered = [stored.answered_of(each) for each in context.pinned.items[instance.custom_id]]
        for expert in context.experts.values():
            seed = seed_for(context.pinned.seed, instance.custom_id, "merge", expert.name)
            asked = asking.aggregator(expert, instance.question, answered, seed=seed)
            batch.ask(instance, expert, asked, stage="fuse")
        batch.move(instance, "fuse")
    return batch


def finish(session: Session, context: Context) -> None:
    """Write each expert's scores, overall and per area."""
    units = session.execute(
        select(col(UnitRow.expert), col(UnitRow.completion), col(InstanceRow.question))
        .join(InstanceRow, col(InstanceRow.id) == col(UnitRow.instance_id))
        .where(UnitRow.run_id == context.run_id)
    )
    merged = [
        Merged(expert=name, question=stored.question_of(question), text=str((completion or {}).get("text") or ""))
        for name, completion, question in units
    ]
    question_set_id = context.pinned.question_set_id
    assert question_set_id is not None
    for name, areas in aggregators.score(merged).items():
        for area, (right, tried) in areas.items():
            session.add(
                AggregatorScoreRow(
                    expert_id=context.experts[name].id,
                    question_set_id=question_set_id,
                    run_id=context.run_id,
                    category=area,
                    right=right,
                    tried=tried,
                )
            )
    log.info("aggregators tested", experts=len(context.experts), items=context.pinned.lines)


def submit_if_due(session: Session, settings: Settings, question_set_id: int) -> None:
    """Test the pool as it is now, if some member was never tested beside the others. Needs two experts at least."""
    set_row = session.get_one(QuestionSetRow, question_set_id)
    members = pool.load(session, question_set=set_row.name)
    profiled = [name for name, version in members.profile_versions.items() if version]
    untested = [name for name in profiled if name not in members.aggregators]
    if len(profiled) < 2 or not untested:
        return
    members = pool.load(session, question_set=set_row.name, names=profiled)
    newest = question_sets.newest(session, set_row.name)
    evidence = dataclasses.replace(members.evidence, texts=_texts(session, members, newest))
    items = aggregators.items(evidence, seed=seed_for(members.version), most=ITEMS_MAX)
    if items:
        run = runs.submit_aggregator_test(session, pool=members, question_set=newest, items=items)
        log.info("testing aggregators", run=run.id, experts=profiled, items=len(items))


def _texts(session: Session, members: Pool, set_row: QuestionSetRow) -> tuple[tuple[str | None, ...], ...]:
    """What the experts said when they were profiled: rows as `evidence.questions`, columns as `evidence.experts`."""
    columns = []
    for name in members.evidence.experts:
        profile = session.exec(
            select(ProfileRow.run_id).where(
                ProfileRow.expert_id == members.experts[name].id,
                ProfileRow.question_set_id == set_row.id,
                ProfileRow.version == members.profile_versions[name],
            )
        ).first()
        said = session.execute(
            sa.text(
                "SELECT custom_id, completion->>'text' AS said FROM unit JOIN instance ON instance.id = instance_id"
                " WHERE unit.run_id = :run"
            ),
            {"run": profile},
        )
        columns.append({row.custom_id: row.said for row in said})
    return tuple(tuple(column.get(question.id) for column in columns) for question in members.evidence.questions)
