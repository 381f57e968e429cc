"""An aggregator test's stages: every expert merges the same answers; who ends on the right one?

Prepared completions tell who merges best; answers that recruits really gave tell whether merging is worth it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from orchestrator.fusion import aggregators, trials
from orchestrator.fusion.aggregators import Merged
from orchestrator.pool import pool, question_sets
from orchestrator.pool.pool import Pool
from orchestrator.recruiting.values import Answered
from orchestrator.runs import asking, runs
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.work import Batch, Instance, units_of
from orchestrator.settings import Settings
from orchestrator.storage import stored
from orchestrator.storage.tables import (
    AggregatorScoreRow,
    InstanceRow,
    ProfileRow,
    QuestionSetRow,
    SynthesisTrialsRow,
    UnitRow,
)
from skills.question import Question

NATURAL = "natural:"
"""What ids of natural items' questions begin with."""
ITEMS_MAX = 24
"""Prepared ones per test: enough to tell a good aggregator from a bad one, and short beside a profile."""

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
        answered = _to_merge(context, instance)
        for expert in context.experts.values():
            seed = seed_for(context.pinned.seed, instance.custom_id, "merge", expert.name)
            asked = asking.aggregator(
                expert, instance.question, answered, seed=seed, expected=context.completion_tokens[expert.name]
            )
            batch.ask(instance, expert, asked, stage="fuse")
        batch.move(instance, "fuse")
    return batch


def finish(session: Session, context: Context) -> None:
    """Write each expert's scores, overall and per area, and its trials."""
    units = session.execute(
        select(col(UnitRow.expert), col(UnitRow.completion), col(InstanceRow.question))
        .join(InstanceRow, col(InstanceRow.id) == col(UnitRow.instance_id))
        .where(UnitRow.run_id == context.run_id)
        .order_by(col(InstanceRow.position), col(UnitRow.expert))
    )
    merged = []
    trials_of: dict[str, list[dict[str, Any]]] = {name: [] for name in context.experts}
    for name, completion, kept in units:
        question, text = stored.question_of(kept), str((completion or {}).get("text") or "")
        if question.id in context.pinned.natural:
            trials_of[name].append(_trial(context, name, question, completion or {}))
        else:
            merged.append(Merged(expert=name, question=question, text=text))
    question_set_id = context.pinned.question_set_id
    assert question_set_id is not None
    for name, own in trials_of.items():
        session.add(
            SynthesisTrialsRow(
                expert_id=context.experts[name].id,
                question_set_id=question_set_id,
                run_id=context.run_id,
                strategy=context.pinned.strategy,
                trials=own,
            )
        )
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
    """Test the pool as it is now, if some member was never tested beside the others. Needs two experts at least.

    Nor was it where answers were never merged of recruits of the strategy that queries are served with.
    """
    set_row = session.get_one(QuestionSetRow, question_set_id)
    members = pool.load(session, question_set=set_row.name)
    profiled = [name for name, version in members.profile_versions.items() if version]
    untested = [
        name
        for name in profiled
        if name not in members.aggregators or members.trials.get(name, (0, ""))[1] != settings.strategy
    ]
    if len(profiled) < 2 or not untested:
        return
    members = pool.load(session, question_set=set_row.name, names=profiled)
    newest = question_sets.newest(session, set_row.name)
    evidence = dataclasses.replace(members.evidence, texts=_texts(session, members, newest))
    seed = seed_for(members.version)
    items = aggregators.items(evidence, seed=seed, most=ITEMS_MAX)
    natural = trials.items(evidence, strategy=settings.strategy, k=settings.k, seed=seed)
    if items or natural:
        run = runs.submit_aggregator_test(
            session,
            pool=members,
            question_set=newest,
            items=items,
            natural=[_renamed(item) for item in natural],
            strategy=settings.strategy,
            k=settings.k,
        )
        log.info("testing aggregators", run=run.id, experts=profiled, items=len(items), natural=len(natural))


def _renamed(item: trials.Item) -> trials.Item:
    """A question may make a prepared item and a natural one: two lines of the run."""
    return dataclasses.replace(item, question=dataclasses.replace(item.question, id=f"{NATURAL}{item.question.id}"))


def _to_merge(context: Context, instance: Instance) -> Sequence[Answered]:
    natural = context.pinned.natural.get(instance.custom_id)
    if natural is not None:
        return stored.item_of(natural, instance.question).answered
    return [stored.answered_of(each) for each in context.pinned.items[instance.custom_id]]


def _trial(context: Context, name: str, question: Question, completion: Mapping[str, Any]) -> dict[str, Any]:
    """What an expert made of a natural item, and whose answers those were."""
    item = stored.item_of(context.pinned.natural[question.id], question)
    reason = str(completion.get("finish_reason") or "error")
    merged = Answered(expert=name, text=str(completion.get("text") or ""), answer="", finish_reason=reason)
    experts = sorted({context.experts[each.expert].id for each in item.answered})
    asked = question.id.removeprefix(NATURAL)
    return stored.trial_json(trials.read(item, merged)) | {"question": asked, "experts": experts}


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
