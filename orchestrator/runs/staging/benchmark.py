"""A benchmark's stages: annotate, recruit, generate (in rounds), fuse, grade."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator import aggregators, annotation, choosing, fusion
from orchestrator.answers import grading
from orchestrator.choosing import Choice
from orchestrator.fusion import Fused
from orchestrator.recruiting.values import Answered, Ask, NoExperts, Recruit, Recruitment
from orchestrator.runs import asking
from orchestrator.runs.pinned import seed_for
from orchestrator.runs.staging.context import Context
from orchestrator.runs.staging.work import Batch, Instance, Unit, units_of
from orchestrator.storage import stored
from skills import annotate

ROUNDS_MAX = 8

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
    if context.pinned.annotator is None:
        _recruit(session, context, [(instance, ()) for instance in instances], batch)
        return batch
    units = units_of(session, instances)
    named = []
    for instance in instances:
        samples = [unit for unit in units.get(instance.id, []) if unit.stage == "annotate"]
        if samples:
            named.append((instance, _vote(samples)))
        else:
            _ask_annotator(context, instance, batch)
    _recruit(session, context, named, batch)
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
        recruitment = stored.recruitment_of(instance.decision or {})
        answered = _answered(context, instance, own)
        wanted = _more(context, instance, recruitment, answered)
        more = [recruit for recruit in wanted if recruit.expert not in quarantined]
        if more:
            _next_round(session, context, instance, recruitment, more, batch)
            continue
        name = _aggregator(context, recruitment, quarantined)
        choice = _choose(context, instance, recruitment, answered, name)
        if choice.method == "aggregate" and name is not None:
            asked = asking.aggregator(
                context.experts[name], instance.question, answered, seed=_seed(context, instance, "fuse", name)
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
        answered = _answered(context, instance, own)
        (merging,) = (unit for unit in own if unit.stage == "fuse")
        merged = merging.answered(instance.question)
        choice = _choose(context, instance, recruitment, answered, merging.expert)
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


def _answered(context: Context, instance: Instance, units: Sequence[Unit]) -> list[Answered]:
    """What the recruits said, as fusion sees it: free-form answers that mean the same say the same."""
    own = [unit.answered(instance.question) for unit in units if unit.stage == "generate"]
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
    session: Session, context: Context, named: Sequence[tuple[Instance, tuple[str, ...]]], batch: Batch
) -> None:
    if not named:
        return
    assert context.recruiter is not None
    quarantined = context.quarantined(session)
    available = [name for name in context.experts if name not in quarantined]
    seeds = [_seed(context, instance, "recruit") for instance, _ in named]
    asks = _asks(context, named)
    try:
        recruitments = context.recruiter.recruit(asks, k=context.pinned.k, seeds=seeds, experts=available)
    except NoExperts as error:
        for instance, _ in named:
            batch.move(instance, "done", error=str(error), correct=False)
        return
    for (instance, skills), seed, recruitment in zip(named, seeds, recruitments, strict=True):
        decision = stored.recruitment_json(recruitment) | {"seed": seed, "annotated": list(skills)}
        if context.pinned.annotator is not None and not skills:
            decision["annotation_note"] = annotation.NONE_SURVIVED
        recruits = [recruit.expert for recruit in recruitment.recruits]
        _generate(context, instance, recruits, stage="generate", round=0, batch=batch)
        if instance.position in context.panel:
            others = [name for name in available if name not in recruits]
            _generate(context, instance, others, stage="baseline", round=0, batch=batch)
        batch.move(instance, "generate", decision=decision, round=0)


def _asks(context: Context, named: Sequence[tuple[Instance, tuple[str, ...]]]) -> list[Ask]:
    embedder = context.embedder()
    vectors = embedder.embed([instance.question.text for instance, _ in named])
    return [
        Ask(
            text=instance.question.text,
            embedding=vector,
            skills=skills,
            skill_embeddings=embedder.embed(skills) if skills else None,
            options=len(instance.question.options),
            choices=instance.question.options,
        )
        for (instance, skills), vector in zip(named, vectors, strict=True)
    ]


def _generate(
    context: Context, instance: Instance, names: Sequence[str], *, stage: str, round: int, batch: Batch
) -> None:
    for name in names:
        # One seed per expert and line, whatever the stage: a baseline's answer is what the recruit would have said.
        seed = _seed(context, instance, "generate", name)
        asked = asking.expert(context.experts[name], instance.question, seed=seed)
        batch.ask(instance, context.experts[name], asked, stage=stage, round=round)


def _more(
    context: Context, instance: Instance, recruitment: Recruitment, answered: Sequence[Answered]
) -> tuple[Recruit, ...]:
    if not context.is_adaptive or instance.round + 1 >= ROUNDS_MAX:
        return ()
    assert context.recruiter is not None
    skills = tuple((instance.decision or {}).get("annotated", ()))
    (ask,) = _asks(context, [(instance, skills)])
    present = {recruit.expert for recruit in recruitment.recruits}
    more = context.recruiter.more(ask, recruitment, answered)
    return tuple(recruit for recruit in more if recruit.expert not in present)


def _next_round(
    session: Session,
    context: Context,
    instance: Instance,
    recruitment: Recruitment,
    more: Sequence[Recruit],
    batch: Batch,
) -> None:
    """Have more experts generate; those that answer for the baselines anyway need not answer twice."""
    round = instance.round + 1
    names = [recruit.expert for recruit in more]
    promoted = set(session.scalars(_PROMOTE, params={"round": round, "instance": instance.id, "experts": names}).all())
    missing = [name for name in names if name not in promoted]
    _generate(context, instance, missing, stage="generate", round=round, batch=batch)
    decision: dict[str, Any] = dict(instance.decision or {})
    assert context.recruiter is not None
    joined = context.recruiter.joined(recruitment, more)
    decision["recruits"] = [stored.recruit_json(recruit) for recruit in joined.recruits]
    # Should all of them have answered for the baselines already, nothing else would wake the instance.
    batch.move(instance, "generate", ready=not missing, round=round, decision=decision)


def _aggregator(context: Context, recruitment: Recruitment, quarantined: set[str]) -> str | None:
    """Who merges the answers, should they be merged."""
    assert context.pool is not None
    available = tuple(name for name in context.experts if name not in quarantined)
    if context.pinned.aggregator is not None:
        return context.pinned.aggregator if context.pinned.aggregator in available else None
    skills = [match.skill for match in recruitment.skills]
    return aggregators.pick(context.pool.aggregators, skills, available) if available else None


def _choose(
    context: Context,
    instance: Instance,
    recruitment: Recruitment,
    answered: Sequence[Answered],
    aggregator: str | None,
) -> Choice:
    assert context.pool is not None
    return choosing.choose(
        recruitment,
        answered,
        instance.question,
        wanted=context.pinned.fusion,
        aggregator=aggregator,
        learnt=context.pool.synthesis,
    )


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
    failed = fused.method == "none"
    batch.move(
        instance,
        "grade" if waits else "done",
        answers=None if waits else _answers(instance, units),
        fused=stored.fused_json(fused),
        answer=fused.answer,
        correct=grading.is_correct(fused.answer, instance.question),
        error=_why_failed(units) if failed else None,
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


def _why_failed(units: Sequence[Unit]) -> str:
    reasons = {
        unit.expert: unit.completion.get("error") or "said nothing" for unit in units if unit.stage == "generate"
    }
    return "no expert answered: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _seed(context: Context, instance: Instance, *what: object) -> int:
    return seed_for(context.pinned.seed, instance.custom_id, *what)
