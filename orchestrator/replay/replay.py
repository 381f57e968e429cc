"""Recruiting and fusion on recorded answers, with no engine: the very code that serves queries, thousands a second."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator import fusion, recruiting
from orchestrator.recruiting import tally
from orchestrator.recruiting.adaptive import AdaptiveRecruiter
from orchestrator.recruiting.values import Answered, Ask, Recruitment
from orchestrator.replay.recorded import Recorded, RecordedError
from skills.evidence import Evidence, Floats
from skills.question import Question

Embed = Callable[[Sequence[str]], Floats]
ADAPTIVE = "adaptive"
"""The strategy that `calls` asks for."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a replay learns from and what it is held to, embedded."""

    evidence: Evidence
    questions: tuple[Question, ...]
    """n to answer."""
    asks: tuple[Ask, ...]
    answers: tuple[tuple[str | None, ...], ...] = field(repr=False)
    """n rows of the evidence's experts' answers; None: never asked."""
    texts: tuple[tuple[str | None, ...], ...] = field(repr=False)
    correct: Floats = field(repr=False)
    """(n, m)"""
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
        evidence=_evidence(recorded, learnt_rows, embed),
        questions=questions,
        asks=asks(questions, embed),
        answers=tuple(recorded.answers[row] for row in test_rows),
        texts=tuple(recorded.texts[row] for row in test_rows),
        correct=recorded.correct(test_rows),
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


def run(given: Material, *, strategy: str, k: int | None, calls: float | None, seed: int) -> Outcome:
    """Answer every question with `k` experts, or with at most `calls` in the mean. Raises `UnknownStrategy`."""
    begun = time.perf_counter()
    recruiter = recruiting.fit(strategy, given.evidence)
    fitted = time.perf_counter()
    seeds = [seed * 1_000_003 + place for place in range(len(given.asks))]
    if isinstance(recruiter, AdaptiveRecruiter):
        recruitments, answered = _adaptively(given, recruiter, calls if calls is not None else float(k or 1), seeds)
    else:
        size = k if k is not None else max(1, int(calls or 1))
        recruitments = recruiter.recruit(given.asks, k=size, seeds=seeds)
        answered = [_answered(given, row, each) for row, each in enumerate(recruitments)]
    recruited = time.perf_counter()
    lines = tuple(
        _line(given, row, recruitment, answered[row], fusion.merge(recruitment, answered[row]))
        for row, recruitment in enumerate(recruitments)
    )
    return Outcome(
        strategy=strategy,
        lines=lines,
        fit_s=fitted - begun,
        recruit_s=recruited - fitted,
        fuse_s=time.perf_counter() - recruited,
    )


def _adaptively(
    given: Material, recruiter: AdaptiveRecruiter, calls: float, seeds: Sequence[int]
) -> tuple[list[Recruitment], list[list[Answered]]]:
    """Round by round, as a run does it. Should the mean be about to be exceeded, the surest go without."""
    recruitments = recruiter.recruit_within(given.asks, mean_calls=calls, seeds=seeds)
    answered = [_answered(given, row, each) for row, each in enumerate(recruitments)]
    budget = int(calls * len(recruitments)) - sum(len(each.recruits) for each in recruitments)
    open_rows = list(range(len(recruitments)))
    while open_rows and budget > 0:
        wanted = []
        for row in open_rows:
            more = recruiter.more(given.asks[row], recruitments[row], answered[row])
            if more:
                wanted.append((tally.lead(recruitments[row], answered[row]), row, more))
        wanted.sort(key=lambda each: each[:2])
        open_rows = []
        for _, row, more in wanted:
            if len(more) > budget:
                break
            budget -= len(more)
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


def _line(
    given: Material, row: int, recruitment: Recruitment, answered: Sequence[Answered], fused: fusion.Fused
) -> Line:
    return Line(
        recruitment=recruitment,
        answer=fused.answer,
        correct=bool(fused.answer) and fused.answer == given.questions[row].answer,
        confidence=fused.confidence,
        calls=len(answered),
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
        skill_names=names,
        skill_embeddings=embed(names) if names else None,
    )


def _identity(question: Question) -> tuple[str, tuple[str, ...]]:
    return " ".join(question.text.casefold().split()), question.options
