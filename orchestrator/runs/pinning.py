"""What a run pins at its submission, worked out from its request and the pool as it is then."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator import annotation, prompts, recruiting, residency
from orchestrator.fusion import aggregators, fusion, trials
from orchestrator.online import deciding
from orchestrator.pool.pool import Pool, pins
from orchestrator.recruiting.values import NoExperts
from orchestrator.runs.pinned import Baselines, Pinned, Stage
from orchestrator.settings import Settings
from orchestrator.storage import stored
from orchestrator.storage.tables import ExpertRow, QuestionSetRow
from skills.question import Question
from workers.messages import Model

LINES_MAX = 50_000
BASELINE_LINES_MAX = 1_000
"""Lines on which the whole pool answers: enough for an interval of three points either way."""
BASELINE_LINES_MIN = 100
BASELINE_SHARE = 2
"""Baselines may cost so many times the calls of the run's own recruits, unless that leaves too few lines."""
ORDER: tuple[Stage, ...] = ("annotate", "generate", "fuse")


class RunRefused(ValueError):
    """The run cannot be accepted as it was submitted; `param` is the field to blame."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def for_benchmark(
    *,
    settings: Settings,
    pool: Pool,
    questions: Sequence[Question],
    k: int | None = None,
    strategy: str | None = None,
    method: str | None = None,
    annotated_by: str | None = None,
    aggregator: str | None = None,
    seed: int = 0,
    with_baselines: bool = True,
) -> Pinned:
    """Settings of a benchmark, checked and completed by the service's defaults. Raises `RunRefused`, `NoExperts`."""
    annotated_by = annotated_by or annotation.method_for(strategy, settings)
    strategy, method = strategy or settings.strategy, method or settings.fusion
    _check_questions(questions)
    _check_settings(pool, k=k, strategy=strategy, method=method, annotated_by=annotated_by, aggregator=aggregator)
    size = len(pool.experts)
    recruits = k or min(settings.k, size)
    best = deciding.most_competent(pool).name
    annotator = best if annotated_by == "llm" else None
    stages: dict[Stage, tuple[str, ...]] = {
        "annotate": _keys(pool, [annotator]) if annotator else (),
        "generate": _keys(pool, pool.experts),
        "fuse": _fusing(pool, questions, method, aggregator, strategy),
    }
    return Pinned(
        prompts=prompts.digest(),
        lines=len(questions),
        seed=seed,
        models=_models(pool),
        stages=stages,
        pool=pins(pool),
        k=recruits,
        strategy=strategy,
        fusion=method,
        annotation=annotated_by,
        annotator=annotator,
        aggregator=aggregator,
        best_single=best,
        baselines=baselines(len(questions), k=recruits, size=size) if with_baselines else None,
        planned_loads=_planned_loads(pool, stages),
    )


def for_batch(*, settings: Settings, pool: Pool) -> Pinned:
    """Settings of a batch, for what its lines leave out; how many they are is pinned once they are read.

    Raises `RunRefused` and `NoExperts`.
    """
    strategy, method, annotated_by = settings.strategy, settings.fusion, settings.annotation
    _check_settings(pool, k=None, strategy=strategy, method=method, annotated_by=annotated_by, aggregator=None)
    best = deciding.most_competent(pool).name
    return Pinned(
        prompts=prompts.digest(),
        lines=0,
        models=_models(pool),
        stages={
            "annotate": _keys(pool, [best]) if annotated_by == "llm" else (),
            "generate": _keys(pool, pool.experts),
            "fuse": _merging(pool) if method in ("auto", "aggregate") else (),
        },
        pool=pins(pool),
        k=min(settings.k, len(pool.experts)),
        strategy=strategy,
        fusion=method,
        annotation=annotated_by,
        annotator=best,
        best_single=best,
    )


def for_profile(*, expert: ExpertRow, question_set: QuestionSetRow, questions: Sequence[Question]) -> Pinned:
    """Settings of a profile run. Raises `RunRefused`."""
    if not questions:
        raise RunRefused(f"question set {question_set.name!r} has no questions", param="question_set")
    model = Model.model_validate(expert.model)
    return Pinned(
        prompts=prompts.digest(),
        lines=len(questions),
        models={model.key: model.model_dump(mode="json")},
        stages={"generate": (model.key,)},
        planned_loads=0 if model.engine == "remote" else 1,
        expert_id=expert.id,
        question_set_id=question_set.id,
    )


def for_aggregator_test(
    *,
    pool: Pool,
    question_set: QuestionSetRow,
    items: Sequence[aggregators.TestItem],
    natural: Sequence[trials.Item],
    strategy: str,
    k: int,
    seed: int,
) -> Pinned:
    """Settings of an aggregator test; `natural` items were recruited for by `strategy`. Raises `RunRefused`."""
    if not items and not natural:
        raise RunRefused("no question was both solved and missed: there is nothing to test aggregators on")
    stages: dict[Stage, tuple[str, ...]] = {"fuse": _keys(pool, pool.experts)}
    return Pinned(
        prompts=prompts.digest(),
        lines=len(items) + len(natural),
        seed=seed,
        models=_models(pool),
        stages=stages,
        pool=pins(pool),
        k=k,
        strategy=strategy,
        planned_loads=_planned_loads(pool, stages),
        question_set_id=question_set.id,
        items={item.question.id: [stored.answered_json(each) for each in item.answered] for item in items},
        natural={item.question.id: stored.item_json(item) for item in natural},
    )


def _check_questions(questions: Sequence[Question]) -> None:
    if not questions:
        raise RunRefused("there is no question in it", param="questions")
    if len(questions) > LINES_MAX:
        raise RunRefused(f"{len(questions)} lines are more than the {LINES_MAX} a run may have", param="questions")
    seen: set[str] = set()
    for number, question in enumerate(questions, start=1):
        if question.id in seen:
            raise RunRefused(f"line {number}: the id {question.id!r} occurs twice", param="id")
        if not question.answer:
            raise RunRefused(f"line {number}: question {question.id!r} has no answer to grade by", param="answer")
        seen.add(question.id)


def _check_settings(
    pool: Pool, *, k: int | None, strategy: str, method: str, annotated_by: str, aggregator: str | None
) -> None:
    size = len(pool.experts)
    if not size:
        raise NoExperts("no expert is live; GET /v1/experts shows how far they are")
    if k is not None and not 1 <= k <= size:
        raise RunRefused(f"k is {k}, but the pool has {size} live experts to recruit from", param="k")
    if strategy not in recruiting.STRATEGIES:
        known = ", ".join(sorted(recruiting.STRATEGIES))
        raise RunRefused(f"there is no strategy {strategy!r}; there are {known}", param="strategy")
    if method not in fusion.METHODS:
        raise RunRefused(f"there is no fusion {method!r}; there are {', '.join(fusion.METHODS)}", param="fusion")
    if annotated_by not in ("embedding", "llm"):
        raise RunRefused(f"annotation is 'embedding' or 'llm', not {annotated_by!r}", param="annotation")
    if aggregator is not None and aggregator not in pool.experts:
        raise RunRefused(f"the aggregator {aggregator!r} is not among the run's experts", param="aggregator")


def baselines(lines: int, *, k: int, size: int) -> Baselines:
    """How many lines the whole pool answers, so that the extra calls stay within bounds."""
    others = size - k
    if others <= 0:
        return Baselines(lines=lines, calls=0)
    affordable = max(BASELINE_LINES_MIN, BASELINE_SHARE * lines * k // others)
    sampled = min(lines, BASELINE_LINES_MAX, affordable)
    return Baselines(lines=sampled, calls=sampled * others)


def _fusing(
    pool: Pool, questions: Sequence[Question], method: str, aggregator: str | None, strategy: str
) -> tuple[str, ...]:
    """Models that may have to merge answers."""
    if method in ("vote", "best_single"):
        return ()
    if method == "auto" and all(question.options for question in questions) and not pool.synthesis.gaining(strategy):
        return ()  # choices are voted on; an aggregator is the exception
    if aggregator is not None:
        return _keys(pool, [aggregator])
    return _merging(pool)


def _merging(pool: Pool) -> tuple[str, ...]:
    """Models of the aggregators that the aggregator test would choose."""
    areas = sorted({area for scores in pool.aggregators.values() for area in scores if area})
    names = [aggregators.pick(pool.aggregators, [area], tuple(pool.experts)) for area in (*areas, "")]
    return _keys(pool, names)


def _planned_loads(pool: Pool, stages: Mapping[Stage, tuple[str, ...]]) -> int:
    on_devices = {expert.model.key for expert in pool.experts.values() if expert.model.engine != "remote"}
    return residency.fewest_loads([frozenset(stages.get(stage, ())) & on_devices for stage in ORDER])


def _keys(pool: Pool, names: Iterable[str]) -> tuple[str, ...]:
    """Distinct models of these experts, in order."""
    return tuple(dict.fromkeys(pool.experts[name].model.key for name in names))


def _models(pool: Pool) -> dict[str, dict[str, Any]]:
    return {expert.model.key: expert.model.model_dump(mode="json") for expert in pool.experts.values()}
