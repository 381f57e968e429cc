"""Natural items of the aggregator test: profile questions with the answers that their recruits really gave. Pure.

Who would be recruited is decided with the questions held out of the evidence: a recruiter that has seen a question is
too sure of it, and confidences would not compare with those of new questions.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator import recruiting
from orchestrator.answers import grading
from orchestrator.fusion import aggregators, fusion
from orchestrator.fusion.synthesis import Trial
from orchestrator.recruiting.values import Answered, Ask, Recruiter, Recruitment
from skills.evidence import Evidence
from skills.question import Question

MOST = 48
"""Items per test: with twice the synthetic ones still short beside a profile."""
HELD_OUT_SHARE = 0.2
"""Of the profile questions are held out at a time at most."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A profile question, who was recruited for it, and what they had answered there."""

    question: Question
    recruitment: Recruitment
    answered: tuple[Answered, ...]


def items(evidence: Evidence, *, strategy: str, k: int, seed: int, most: int = MOST) -> list[Item]:
    """At most `most` items on questions drawn with `seed`, agreements and disagreements as they come.

    Only where something can be counted and something merged: one vote and two usable answers at least. Costs a fit of
    the strategy per fifth of the questions: one where there are many, five where there are few. Raises
    `recruiting.UnknownStrategy`.
    """
    size = min(k, len(evidence.experts))
    if size < 2 or not len(evidence.questions):
        return []
    order = np.random.default_rng(seed).permutation(len(evidence.questions))
    drawn = order[: min(most, len(order))]
    folds = min(len(drawn), int(np.ceil(len(drawn) / max(1.0, HELD_OUT_SHARE * len(order)))))
    found: list[Item] = []
    for rows in np.array_split(drawn, folds):
        kept = np.setdiff1d(np.arange(len(order)), rows)
        if len(kept):
            found += _held_out(evidence, rows, recruiting.fit(strategy, _only(evidence, kept)), size, seed)
    return found


def read(item: Item, completion: Answered) -> Trial:
    """What an aggregator's `completion` of an item shows."""
    of = item.recruitment, item.answered
    voted, first = fusion.vote(*of), fusion.best_single(*of)
    merged = fusion.read_aggregate(*of, item.question, completion)
    return Trial(
        strategy=item.recruitment.strategy,
        confidence=voted.confidence,
        is_choice=bool(item.question.options),
        vote_right=grading.is_correct(voted.answer, item.question),
        first_right=grading.is_correct(first.answer, item.question),
        right=grading.is_correct(merged.answer, item.question),
    )


def _held_out(
    evidence: Evidence, rows: npt.NDArray[np.intp], recruiter: Recruiter, k: int, seed: int
) -> Iterator[Item]:
    asks = [_ask(evidence, int(row)) for row in rows]
    seeds = [seed + int(row) for row in rows]
    for row, ask, recruitment in zip(rows, asks, recruiter.recruit(asks, k=k, seeds=seeds), strict=True):
        final, answered = _answered(evidence, int(row), recruiter, ask, recruitment)
        if any(item.is_vote for item in answered) and sum(map(fusion.is_usable, answered)) > 1:
            yield Item(question=evidence.questions[row], recruitment=final, answered=tuple(answered))


def _answered(
    evidence: Evidence, row: int, recruiter: Recruiter, ask: Ask, recruitment: Recruitment
) -> tuple[Recruitment, list[Answered]]:
    """What the recruits had said, and whoever was recruited after that."""
    while True:
        answered = [
            aggregators.given_by(evidence, row, evidence.experts.index(each.expert)) for each in recruitment.recruits
        ]
        present = {each.expert for each in recruitment.recruits}
        more = [each for each in recruiter.more(ask, recruitment, answered) if each.expert not in present]
        if not more:
            return recruitment, answered
        recruitment = recruiter.joined(recruitment, more)


def _ask(evidence: Evidence, row: int) -> Ask:
    """As a query is read: by its own embedding."""
    question = evidence.questions[row]
    return Ask(
        text=question.text,
        embedding=evidence.embeddings[row],
        options=len(question.options),
        choices=question.options,
    )


def _only(evidence: Evidence, rows: npt.NDArray[np.intp]) -> Evidence:
    return dataclasses.replace(
        evidence,
        questions=tuple(evidence.questions[row] for row in rows),
        embeddings=evidence.embeddings[rows],
        correct=evidence.correct[rows],
        answers=tuple(evidence.answers[row] for row in rows) if evidence.answers else (),
        texts=tuple(evidence.texts[row] for row in rows) if evidence.texts else (),
    )
