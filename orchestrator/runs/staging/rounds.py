"""Whom a line asks next, once all who were asked have ended. Decides; asking them is the stage's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.online.pricing import token_costs
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.stand_ins import stand_ins
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruitment
from orchestrator.runs.staging.context import Context, is_adaptive
from orchestrator.runs.staging.terms import Terms
from orchestrator.runs.staging.work import Instance, Unit

ROUNDS_MAX = 8


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Experts to recruit besides; none: it is time to fuse."""

    more: tuple[Recruit, ...] = ()
    instead_of: tuple[str, ...] = ()
    """Recruits whose places they take."""


def wanted(
    context: Context,
    terms: Terms,
    instance: Instance,
    recruitment: Recruitment,
    own: Sequence[Unit],
    answered: Sequence[Answered],
    quarantined: set[str],
) -> Wanted:
    """Others for recruits whose models cannot be loaded, each replaced once; else whom an adaptive strategy wants.

    A replacement costs no call more than was planned: who is replaced has generated nothing.
    """
    if instance.round + 1 >= ROUNDS_MAX:
        return Wanted()
    recruitment = _with_left(context, terms, recruitment, own)
    units = {unit.expert: unit for unit in own if unit.stage == "generate"}
    recruited = (recruit.expert for recruit in recruitment.recruits)
    missing = tuple(name for name in recruited if name in units and units[name].is_unloadable)
    if missing:
        broken = {context.experts[name].model.key for name in missing}
        able = [
            name
            for name in terms.recruiting.experts or context.experts
            if name not in quarantined and context.experts[name].model.key not in broken
        ]
        more = stand_ins(
            context.recruiter(terms.recruiting.strategy),
            _ask(context, instance),
            recruitment,
            missing=missing,
            asked=units,
            experts=able,
            seed=int((instance.decision or {})["seed"]),
        )
        if more:
            return Wanted(more=more, instead_of=missing)
    more = _more(context, terms, instance, recruitment, answered)
    return Wanted(more=tuple(recruit for recruit in more if recruit.expert not in quarantined | units.keys()))


def limits(context: Context, terms: Terms) -> Limits | None:
    """What the line may cost in tokens; None: any number. Seconds are no matter for a run."""
    if context.pool is None or terms.query is None or terms.query.options.budget.tokens is None:
        return None
    tokens = terms.query.tokens_for_experts(recruits=terms.recruiting.k, calls=terms.calls)
    costs = token_costs(context.experts, prompt_chars=terms.query.chars, completion_tokens=context.completion_tokens)
    return Limits(costs=costs, tokens=tokens)


def asks(context: Context, named: Sequence[tuple[Instance, tuple[str, ...]]]) -> list[Ask]:
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


def _ask(context: Context, instance: Instance) -> Ask:
    (found,) = asks(context, [(instance, tuple((instance.decision or {}).get("annotated", ())))])
    return found


def _with_left(context: Context, terms: Terms, recruitment: Recruitment, own: Sequence[Unit]) -> Recruitment:
    """The recruitment with what may still be spent, by what the answers so far really took."""
    if (found := limits(context, terms)) is None or found.tokens is None:
        return recruitment
    taken = sum(unit.tokens for unit in own if unit.stage == "generate")
    return replace(recruitment, left=replace(found, tokens=found.tokens - taken))


def _more(
    context: Context, terms: Terms, instance: Instance, recruitment: Recruitment, answered: Sequence[Answered]
) -> tuple[Recruit, ...]:
    recruiter = context.recruiter(terms.recruiting.strategy)
    left = terms.calls_left(made=len(answered), is_adaptive=recruitment.mean_calls is not None)
    if not is_adaptive(recruiter) or left == 0:
        return ()
    return recruiter.more(_ask(context, instance), recruitment, answered)[:left]
