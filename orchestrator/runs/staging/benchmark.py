"""The stages of a benchmark and of a batch: annotate, recruit, generate (in rounds), fuse, grade.

A batch's lines are chat requests: each has its own terms, and no gold answer. One that names an expert is passed on.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import annotation
from orchestrator.answers import grading
from orchestrator.fusion import aggregators, choosing, fusion
from orchestrator.fusion.choosing import Choice
from orchestrator.fusion.fusion import Fused
from orchestrator.online import deciding
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.values import Answered, NoExperts, Recruitment
from orchestrator.runs import asking
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging import direct, rounds
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.terms import Recruiting, Terms
from orchestrator.runs.staging.terms import of as terms_of
from orchestrator.runs.staging.work import Batch, Instance, Unit, units_of
from orchestrator.storage import stored
from skills import annotate

_PROMOTE = sa.text(
    """
    UPDATE unit SET stage = 'generate', round = :round
    WHERE instance_id = :instance AND stage = 'baseline' AND expert = ANY(CAST(:experts AS text[]))
    RETURNING expert
    """
)


def annotate_and_recruit(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """Name the skills (by the annotator's units, or by embedding), choose the recruits, and have them generate."""
    batch = Batch()
    direct.ask(session, context, instances, batch)
    instances = [instance for instance in instances if not direct.is_direct(instance)]
    if not instances:
        return batch
    quarantined = context.quarantined(session)
    annotated = [_terms(context, instance).annotator is not None for instance in instances]
    if not any(annotated):
        _recruit(context, [(instance, ()) for instance in instances], quarantined, batch)
        return batch
    units = units_of(session, instances)
    named: list[tuple[Instance, tuple[str, ...]]] = []
    for instance, by_llm in zip(instances, annotated, strict=True):
        if not by_llm:
            named.append((instance, ()))
            continue
        samples = [unit for unit in units.get(instance.id, []) if unit.stage == "annotate"]
        if samples:
            named.append((instance, _vote(samples)))
        elif context.pinned.annotator in quarantined:  # as if all its samples had failed
            named.append((instance, ()))
        else:
            _ask_annotator(context, instance, batch)
    _recruit(context, named, quarantined, batch)
    return batch


def generated(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """Every recruit of the round has answered or failed: recruit more, or fuse."""
    batch = Batch()
    units = units_of(session, instances)
    quarantined = context.quarantined(session)
    for instance in instances:
        own = units.get(instance.id, [])
        if any(unit.is_open for unit in own if unit.stage == "generate"):
            batch.move(instance, "generate")
            continue
        if direct.is_direct(instance):
            direct.end(instance, own, batch)
            continue
        terms = _terms(context, instance)
        recruitment = stored.recruitment_of(instance.decision or {})
        answered = _answered(context, recruitment, instance, own)
        wanted = rounds.wanted(context, terms, instance, recruitment, own, answered, quarantined)
        if wanted.more:
            _next_round(session, context, instance, recruitment, wanted, batch)
            continue
        name = _aggregator(context, terms, recruitment, quarantined)
        choice = _choose(context, terms, instance, recruitment, answered, name)
        if choice.method == "aggregate" and name is not None:
            merger = context.experts[name]
            asked = asking.aggregator(
                merger,
                terms.asked(instance.question, merger),
                answered,
                seed=_seed(context, instance, "fuse", name),
                expected=context.completion_tokens[name],
                sampling=terms.fused_sampling(merger, recruits=len(recruitment.recruits)),
            )
            batch.ask(instance, context.experts[name], asked, stage="fuse")
            batch.move(instance, "fuse")
        else:
            _grade(context, instance, own, answered, choice.explains(_merge(choice, recruitment, answered)), batch)
    return batch


def aggregated(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """The aggregator has answered, or failed: read its answer and grade it."""
    batch = Batch()
    units = units_of(session, instances)
    for instance in instances:
        own = units.get(instance.id, [])
        recruitment = stored.recruitment_of(instance.decision or {})
        answered = _answered(context, recruitment, instance, own)
        (merging,) = (unit for unit in own if unit.stage == "fuse")
        merged = merging.answered(instance.question)
        choice = _choose(context, _terms(context, instance), instance, recruitment, answered, merging.expert)
        fused = fusion.read_aggregate(recruitment, answered, instance.question, merged)
        _grade(context, instance, own, answered, choice.explains(fused), batch)
    return batch


def completed(session: Session, context: Context, instances: Sequence[Instance]) -> Batch:
    """The answers that only the baselines need have come, too."""
    batch = Batch()
    units = units_of(session, instances)
    for instance in instances:
        batch.move(instance, "done", answers=_answers(instance, units.get(instance.id, [])))
    return batch


def _answered(context: Context, recruitment: Recruitment, instance: Instance, units: Sequence[Unit]) -> list[Answered]:
    """What the recruits said, as fusion sees it: free-form answers that mean the same say the same."""
    names = {recruit.expert for recruit in recruitment.recruits}  # others may stand in for some that were asked
    own = [unit.answered(instance.question) for unit in units if unit.stage == "generate" and unit.expert in names]
    return fusion.agreed(own, instance.question, context.embedder().embed)


def _ask_annotator(context: Context, instance: Instance, batch: Batch) -> None:
    expert = context.experts[context.pinned.annotator or ""]
    for sample in range(annotate.SAMPLES):
        seed = _seed(context, instance, "annotate", sample)
        asked = asking.annotator(expert, instance.question, seed=seed)
        batch.ask(instance, expert, asked, stage="annotate", sample=sample)
    batch.move(instance, "annotate")


def _vote(samples: Sequence[Unit]) -> tuple[str, ...]:
    texts = [str(unit.completion.get("text") or "") for unit in samples if unit.state == "done"]
    return annotate.vote([annotate.parse(text) for text in texts])


def _recruit(
    context: Context, named: Sequence[tuple[Instance, tuple[str, ...]]], quarantined: set[str], batch: Batch
) -> None:
    alike: dict[Recruiting, list[tuple[Instance, tuple[str, ...]]]] = defaultdict(list)
    for instance, skills in named:
        terms = _terms(context, instance)
        if (limits := rounds.limits(context, terms)) is None:
            alike[terms.recruiting].append((instance, skills))
        else:  # what it may cost is its own
            _recruit_among(context, terms.recruiting, quarantined, [(instance, skills)], batch, limits=limits)
    for wanted, group in alike.items():
        _recruit_among(context, wanted, quarantined, group, batch)


def _recruit_among(
    context: Context,
    wanted: Recruiting,
    quarantined: set[str],
    named: Sequence[tuple[Instance, tuple[str, ...]]],
    batch: Batch,
    *,
    limits: Limits | None = None,
) -> None:
    available = [name for name in wanted.experts or context.experts if name not in quarantined]
    seeds = [_recruiting_seed(context, instance) for instance, _ in named]
    asks = rounds.asks(context, named)
    try:
        recruitments = context.recruiter(wanted.strategy).recruit(
            asks, k=wanted.k, seeds=seeds, experts=available, limits=limits
        )
    except NoExperts as error:
        for instance, _ in named:
            batch.move(instance, "done", error=str(error), correct=False)
        return
    for (instance, skills), seed, ask, recruitment in zip(named, seeds, asks, recruitments, strict=True):
        if instance.query is not None and not recruitment.skills:  # told, as in chat
            recruitment = dataclasses.replace(recruitment, skills=context.needs().of(ask))
        decision = stored.recruitment_json(recruitment) | {"seed": seed, "annotated": list(skills)}
        if not skills and _terms(context, instance).annotator is not None:
            decision["annotation_note"] = annotation.NONE_SURVIVED
        recruits = [recruit.expert for recruit in recruitment.recruits]
        _generate(context, instance, recruits, stage="generate", round=0, batch=batch, recruits=len(recruits))
        if instance.position in context.panel:
            others = [name for name in available if name not in recruits]
            _generate(context, instance, others, stage="baseline", round=0, batch=batch, recruits=len(recruits))
        batch.move(instance, "generate", decision=decision, round=0)


def _generate(
    context: Context, instance: Instance, names: Sequence[str], *, stage: str, round: int, batch: Batch, recruits: int
) -> None:
    terms = _terms(context, instance)
    for name in names:
        # One seed per expert and line, whatever the stage: a baseline's answer is what the recruit would have said.
        seed = _seed(context, instance, "generate", name)
        expert = context.experts[name]
        sampling = terms.sampling(expert, recruits=recruits)
        asked = asking.expert(
            expert,
            terms.asked(instance.question, expert),
            seed=seed,
            expected=context.completion_tokens[name],
            sampling=sampling,
        )
        batch.ask(instance, expert, asked, stage=stage, round=round)


def _next_round(
    session: Session,
    context: Context,
    instance: Instance,
    recruitment: Recruitment,
    wanted: rounds.Wanted,
    batch: Batch,
) -> None:
    """Have more experts generate; those that answer for the baselines anyway need not answer twice."""
    round = instance.round + 1
    names = [recruit.expert for recruit in wanted.more]
    promoted = set(session.scalars(_PROMOTE, params={"round": round, "instance": instance.id, "experts": names}).all())
    missing = [name for name in names if name not in promoted]
    recruits = len(recruitment.recruits)
    _generate(context, instance, missing, stage="generate", round=round, batch=batch, recruits=recruits)
    decision: dict[str, Any] = dict(instance.decision or {})
    recruiter = context.recruiter(_terms(context, instance).recruiting.strategy)
    joined = recruiter.joined(recruitment, wanted.more, without=wanted.instead_of)
    decision["recruits"] = [stored.recruit_json(recruit) for recruit in joined.recruits]
    decision["among"] = list(joined.among)
    # Should all of them have answered for the baselines already, nothing else would wake the instance.
    batch.move(instance, "generate", ready=not missing, round=round, decision=decision)


def _aggregator(context: Context, terms: Terms, recruitment: Recruitment, quarantined: set[str]) -> str | None:
    """Who merges the answers, should they be merged."""
    assert context.pool is not None
    available = tuple(name for name in context.experts if name not in quarantined)
    if terms.aggregator is not None:
        return terms.aggregator if terms.aggregator in available else None
    if terms.recruiting.experts is not None:
        available = tuple(name for name in available if name in terms.recruiting.experts)
    skills = [match.skill for match in recruitment.skills]
    return aggregators.pick(context.pool.aggregators, skills, available) if available else None


def _choose(
    context: Context,
    terms: Terms,
    instance: Instance,
    recruitment: Recruitment,
    answered: Sequence[Answered],
    aggregator: str | None,
) -> Choice:
    assert context.pool is not None
    choice = choosing.choose(
        recruitment,
        answered,
        instance.question,
        wanted=terms.fusion,
        aggregator=aggregator,
        learnt=context.pool.synthesis,
    )
    if choice.method == "aggregate" and terms.calls is not None and len(answered) >= terms.calls:
        return choice.without_aggregator("the budget left no call for an aggregator")
    return choice


def _merge(choice: Choice, recruitment: Recruitment, answered: Sequence[Answered]) -> Fused:
    return (fusion.vote if choice.method == "vote" else fusion.best_single)(recruitment, answered)


def _grade(
    context: Context,
    instance: Instance,
    units: Sequence[Unit],
    answered: Sequence[Answered],
    fused: Fused,
    batch: Batch,
) -> None:
    """Judge the fused answer; the line is done unless answers for the baselines are still to come."""
    waits = any(unit.is_open for unit in units if unit.stage == "baseline")
    # Of a chat request the text is what was asked for; a labelled question without an answer was not answered.
    failed = fused.method == "none" or (instance.query is None and not fused.answer)
    batch.move(
        instance,
        "grade" if waits else "done",
        answers=None if waits else _answers(instance, units),
        fused=stored.fused_json(fused),
        answer=fused.answer,
        correct=None if instance.query is not None else grading.is_correct(fused.answer, instance.question),
        error=_why_failed(units, answered) if failed else None,
    )


def _answers(instance: Instance, units: Sequence[Unit]) -> dict[str, Any]:
    """Expert -> what it answered, judged, whether as a recruit or for the baselines."""
    return {
        unit.expert: answer_json(unit, instance) | {"recruited": unit.stage == "generate"}
        for unit in units
        if unit.stage in ("generate", "baseline")
    }


def answer_json(unit: Unit, instance: Instance) -> dict[str, Any]:
    """One expert's answer, judged, with what it cost."""
    answered = unit.answered(instance.question)
    judged = {
        "answer": answered.answer,
        "correct": grading.is_correct(answered.answer, instance.question),
        "finish_reason": answered.finish_reason,
        "prompt_tokens": unit.completion.get("prompt_tokens", 0),
        "completion_tokens": unit.completion.get("completion_tokens", 0),
    }
    error = unit.completion.get("error")
    return judged | ({"error": error} if error else {})


def _why_failed(units: Sequence[Unit], answered: Sequence[Answered]) -> str:
    told = {unit.expert: unit.completion.get("error") for unit in units if unit.stage == "generate"}
    reasons = "; ".join(f"{item.expert}: {told[item.expert] or fusion.trouble(item)}" for item in answered)
    return f"no expert answered: {reasons}"


def _seed(context: Context, instance: Instance, *what: object) -> int:
    own = instance.query.options.seed if instance.query is not None else None
    return seed_for(context.pinned.seed if own is None else own, instance.custom_id, *what)


def _terms(context: Context, instance: Instance) -> Terms:
    return terms_of(context.pinned, instance.query)


def _recruiting_seed(context: Context, instance: Instance) -> int:
    """A chat request recruits whom it would recruit in `/v1/chat/completions` and `/v1/route`."""
    if instance.query is None:
        return _seed(context, instance, "recruit")
    seed = instance.query.options.seed
    return seed if seed is not None else deciding.question_seed(instance.question)
