"""Recruiting and fusion on recorded answers, with no engine: the very code that serves queries, thousands a second."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from orchestrator import recruiting
from orchestrator.fusion import fusion
from orchestrator.recruiting import tally
from orchestrator.recruiting.adaptive import AdaptiveRecruiter
from orchestrator.recruiting.limits import Cost, Limits, completion_tokens
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruitment
from orchestrator.replay.recorded import Recorded, RecordedError
from skills.evidence import Evidence, Floats
from skills.question import Question

Embed = Callable[[Sequence[str]], Floats]
ADAPTIVE = "adaptive"
"""The strategy that `calls` asks for."""
TOKENS_EXPERTS = 7
"""Experts per question at most where tokens are the budget."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a replay learns from and what it is held to, embedded."""

    folder: Path
    evidence: Evidence
    questions: tuple[Question, ...]
    """n to answer."""
    asks: tuple[Ask, ...]
    answers: tuple[tuple[str | None, ...], ...] = field(repr=False)
    """n rows of the evidence's experts' answers; None: never asked."""
    texts: tuple[tuple[str | None, ...], ...] = field(repr=False)
    correct: Floats = field(repr=False)
    """(n, m)"""
    tokens: Floats | None = field(repr=False)
    """(n, m) tokens of the completions, by their texts' lengths, NaN where there is no text; None: nowhere any."""
    contaminated: tuple[str, ...]
    """Ids of profile questions that were also to be answered: taken out of the profile."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One question, answered."""

    recruitment: Recruitment
    answer: str
    correct: bool
    confidence: float
    calls: int
    tokens: float
    """Of its completions; 0 where there are no texts to tell."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A strategy's answers to all questions, and what they took."""

    strategy: str
    lines: tuple[Line, ...] = field(repr=False)
    fit_s: float
    recruit_s: float
    fuse_s: float

    @property
    def credit(self) -> Floats:
        return np.array([line.correct for line in self.lines], np.float32)

    @property
    def mean_calls(self) -> float:
        return float(np.mean([line.calls for line in self.lines]))

    @property
    def mean_tokens(self) -> float:
        return float(np.mean([line.tokens for line in self.lines]))


def material(recorded: Recorded, *, profile: Sequence[str], test: Sequence[str], embed: Embed) -> Material:
    """The two splits. Raises `RecordedError` for a split without questions.

    A question that is in both (by its text and choices) is taken out of the profile, and listed.
    """
    learnt_rows = recorded.rows(profile, "--profile-split")
    test_rows = recorded.rows(test, "--test-split")
    tested = {_identity(recorded.questions[row]) for row in test_rows}
    contaminated = [row for row in learnt_rows if _identity(recorded.questions[row]) in tested]
    learnt_rows = sorted({*learnt_rows} - {*contaminated})
    if not learnt_rows:
        path = recorded.folder / "questions.parquet"
        raise RecordedError(f"{path}: column 'split': every question to learn from is also one to be held to")
    questions = tuple(recorded.questions[row] for row in test_rows)
    return Material(
        folder=recorded.folder,
        evidence=_evidence(recorded, learnt_rows, embed),
        questions=questions,
        asks=asks(questions, embed),
        answers=tuple(recorded.answers[row] for row in test_rows),
        texts=tuple(recorded.texts[row] for row in test_rows),
        correct=recorded.correct(test_rows),
        tokens=recorded.tokens(test_rows),
        contaminated=tuple(recorded.questions[row].id for row in contaminated),
    )


def asks(questions: Sequence[Question], embed: Embed) -> tuple[Ask, ...]:
    """The questions as recruiters read them, with the skills they came with."""
    vectors = embed([question.text for question in questions])
    names = sorted({skill for question in questions for skill in question.skills})
    by_name = dict(zip(names, embed(names), strict=True)) if names else {}
    return tuple(
        Ask(
            text=question.text,
            embedding=vector,
            skills=question.skills,
            skill_embeddings=np.stack([by_name[name] for name in question.skills]) if question.skills else None,
            options=len(question.options),
            choices=question.options,
        )
        for question, vector in zip(questions, vectors, strict=True)
    )


def without_skills(given: Material) -> Material:
    """The same, as if no LLM had named the questions' skills; those of the profile stay."""
    bare = tuple(dataclasses.replace(ask, skills=(), skill_embeddings=None) for ask in given.asks)
    return dataclasses.replace(given, asks=bare)


def run(
    given: Material,
    *,
    strategy: str,
    seed: int,
    k: int | None = None,
    calls: float | None = None,
    tokens: float | None = None,
) -> Outcome:
    """Answer every question with `k` experts, with at most `calls` in the mean, or with `tokens`.

    Of tokens, `adaptive` keeps the mean; other strategies keep every question within them, as they are expected.
    Raises `UnknownStrategy`, and `RecordedError` for `tokens` where there are no texts to know them by.
    """
    if tokens is not None and (given.tokens is None or given.evidence.tokens is None):
        raise RecordedError(
            f"{given.folder / 'outputs.parquet'}: column 'text' has no completions of both the profile and the test "
            "split: a budget of tokens needs their lengths"
        )
    begun = time.perf_counter()
    recruiter = recruiting.fit(strategy, given.evidence)
    fitted = time.perf_counter()
    seeds = [seed * 1_000_003 + place for place in range(len(given.asks))]
    costs = costs_of(given.evidence)
    if isinstance(recruiter, AdaptiveRecruiter):
        if tokens is not None:
            begun_with = recruiter.recruit_spending(given.asks, mean_tokens=tokens, costs=costs, seeds=seeds)
            ledger = _Ledger(given, total=tokens * len(given.asks), costs=costs)
        else:
            mean = calls if calls is not None else float(k or 1)
            begun_with = recruiter.recruit_within(given.asks, mean_calls=mean, seeds=seeds)
            ledger = _Ledger(given, total=float(int(mean * len(given.asks))), costs=None)
        recruitments, answered = _adaptively(given, recruiter, begun_with, ledger)
    else:
        size = k if k is not None else TOKENS_EXPERTS if tokens is not None else max(1, int(calls or 1))
        limits = None if tokens is None else Limits(costs=costs, tokens=tokens)
        recruitments = recruiter.recruit(
            given.asks, k=min(size, len(given.evidence.experts)) if limits else size, seeds=seeds, limits=limits
        )
        answered = [_answered(given, row, each) for row, each in enumerate(recruitments)]
    recruited = time.perf_counter()
    taken = completions(given)
    lines = tuple(
        _line(given, row, recruitment, answered[row], fusion.merge(recruitment, answered[row]), taken)
        for row, recruitment in enumerate(recruitments)
    )
    return Outcome(
        strategy=strategy,
        lines=lines,
        fit_s=fitted - begun,
        recruit_s=recruited - fitted,
        fuse_s=time.perf_counter() - recruited,
    )


def costs_of(evidence: Evidence) -> dict[str, Cost]:
    """What each expert's completion is expected to take. Recorded folders do not tell prompts."""
    expected = completion_tokens(evidence)
    return {name: Cost(tokens=float(tokens)) for name, tokens in zip(evidence.experts, expected, strict=True)}


def completions(given: Material) -> Floats | None:
    """(n, m) tokens of the completions, as expected where there is no text; None: there are no texts at all."""
    if given.tokens is None:
        return None
    expected = completion_tokens(given.evidence)
    return np.asarray(np.where(np.isnan(given.tokens), expected, given.tokens), np.float32)


class _Ledger:
    """What is left of the calls, or with `costs` of the tokens, of all questions together."""

    def __init__(self, given: Material, *, total: float, costs: Mapping[str, Cost] | None) -> None:
        self._given, self._left, self._costs = given, total, costs
        self._taken = completions(given)

    @property
    def is_empty(self) -> bool:
        return self._left <= 0

    def affords(self, more: Sequence[Recruit]) -> bool:
        """Whether what these are expected to take is there."""
        expected = len(more) if self._costs is None else sum(self._costs[each.expert].tokens for each in more)
        return expected <= self._left

    def charge(self, row: int, recruits: Sequence[Recruit]) -> None:
        """Take what they really took."""
        is_calls = self._costs is None
        self._left -= len(recruits) if is_calls else _tokens(self._given, self._taken, row, recruits)


def _adaptively(
    given: Material, recruiter: AdaptiveRecruiter, recruitments: list[Recruitment], ledger: _Ledger
) -> tuple[list[Recruitment], list[list[Answered]]]:
    """Round by round, as a run does it. Should the mean be about to be exceeded, the surest go without."""
    answered = [_answered(given, row, each) for row, each in enumerate(recruitments)]
    for row, each in enumerate(recruitments):
        ledger.charge(row, each.recruits)
    open_rows = list(range(len(recruitments)))
    while open_rows and not ledger.is_empty:
        wanted = []
        for row in open_rows:
            more = recruiter.more(given.asks[row], recruitments[row], answered[row])
            if more:
                wanted.append((tally.lead(recruitments[row], answered[row]), row, more))
        wanted.sort(key=lambda each: each[:2])
        open_rows = []
        for _, row, more in wanted:
            if not ledger.affords(more):
                break
            ledger.charge(row, more)
            recruitments[row] = recruiter.joined(recruitments[row], more)
            answered[row] = _answered(given, row, recruitments[row])
            open_rows.append(row)
    return recruitments, answered


def _answered(given: Material, row: int, recruitment: Recruitment) -> list[Answered]:
    """What the recruits said; nobody else's answer is looked at."""
    found = []
    for recruit in recruitment.recruits:
        column = given.evidence.experts.index(recruit.expert)
        answer = given.answers[row][column]
        reason = "error" if answer is None else "stop"
        text = given.texts[row][column] or ""
        found.append(Answered(expert=recruit.expert, text=text, answer=answer or "", finish_reason=reason))
    return found


def _tokens(given: Material, taken: Floats | None, row: int, recruits: Sequence[Recruit]) -> float:
    """What these completions took."""
    if taken is None:
        return 0.0
    return float(taken[row, [given.evidence.experts.index(recruit.expert) for recruit in recruits]].sum())


def _line(
    given: Material,
    row: int,
    recruitment: Recruitment,
    answered: Sequence[Answered],
    fused: fusion.Fused,
    taken: Floats | None,
) -> Line:
    return Line(
        recruitment=recruitment,
        answer=fused.answer,
        correct=bool(fused.answer) and fused.answer == given.questions[row].answer,
        confidence=fused.confidence,
        calls=len(answered),
        tokens=_tokens(given, taken, row, recruitment.recruits),
    )


def _evidence(recorded: Recorded, rows: Sequence[int], embed: Embed) -> Evidence:
    questions = tuple(recorded.questions[row] for row in rows)
    names = tuple(sorted({skill for question in questions for skill in question.skills}))
    return Evidence(
        experts=recorded.experts,
        questions=questions,
        embeddings=embed([question.text for question in questions]) if questions else np.zeros((0, 0), np.float32),
        correct=recorded.correct(rows),
        answers=tuple(tuple(answer or "" for answer in recorded.answers[row]) for row in rows),
        texts=tuple(recorded.texts[row] for row in rows),
        tokens=recorded.tokens(rows),
        skill_names=names,
        skill_embeddings=embed(names) if names else None,
    )


def _identity(question: Question) -> tuple[str, tuple[str, ...]]:
    return " ".join(question.text.casefold().split()), question.options
