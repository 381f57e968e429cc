"""Several answers to one: a weighted vote, the best single expert, or what an aggregator made of them. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.answers import equality, grading, looping, meaning
from orchestrator.recruiting import tally
from orchestrator.recruiting.values import Answered, Recruitment
from skills.question import Question

Method = Literal["vote", "aggregate", "best_single", "none"]
METHODS = ("auto", "vote", "aggregate", "best_single")
"""What may be asked for. "auto" is decided by `choose`, answer by answer; "none" means that no expert answered."""

SHORT_CHARS = 80
"""Answers to free-form questions are voted on when they are at most this long."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The one answer, and how it came about."""

    method: Method
    answer: str
    """The parsed answer; "" where there is none to parse, or no expert answered."""
    text: str
    """What the user reads."""
    expert: str | None
    """Whose text it is: the winner of the vote, the best single expert or the aggregator."""
    confidence: float
    """0 to 1: the winning answer's share of the weight of all recruits, those that gave no vote included; where the
    strategy weighs in log-odds, the probability that the answer is right."""
    votes: Mapping[str, float]
    """Parsed answer -> weight behind it (or its probability), the heaviest first."""
    note: str = ""
    """One line for people: why this way, who agreed, who was missing."""
    gain: float | None = None
    """What was expected when the way was chosen: by how much it is right more often than the first recruit."""


def is_usable(item: Answered) -> bool:
    """Whether there is a text to show or to merge, be it parsed or not; one that only repeats itself is none."""
    if item.is_vote:
        return True
    return item.finish_reason in ("stop", "length") and bool(grading.visible(item.text)) and not _is_lost(item)


def _is_lost(item: Answered) -> bool:
    """It repeated itself until it was cut off. What ends by itself was meant so."""
    return item.finish_reason == "length" and looping.is_looping(grading.visible(item.text))


def agreed(answered: Sequence[Answered], question: Question, embed: meaning.Embed) -> list[Answered]:
    """Free-form answers that mean the same take the words of the first, so that they are counted together.

    Letters need no such reading, and texts too long to be an answer are left to an aggregator.
    """
    if question.options or sum(item.is_vote for item in answered) < 2:
        return list(answered)
    words = meaning.representatives([item.answer if item.is_vote else "" for item in answered], embed)
    return [
        dataclasses.replace(item, answer=answer) if item.is_vote else item
        for item, answer in zip(answered, words, strict=True)
    ]


def choose(recruitment: Recruitment, answered: Sequence[Answered], question: Question) -> Method:
    """The rule: a vote where answers can be counted, else an aggregator, and neither for one answer or none.

    `choosing.choose` goes by it where nothing better is known.
    """
    usable = [item for item in answered if is_usable(item)]
    voters = [item for item in answered if item.is_vote]
    if not usable:
        return "none"
    if len(usable) == 1 or not gains(recruitment):
        return "best_single"
    if question.options:
        return "vote" if voters else "aggregate"
    short = all(len(item.answer) <= SHORT_CHARS for item in voters)
    agreed = any(len(camp.members) > 1 for camp in tally.camps(recruitment, voters))
    return "vote" if short and agreed else "aggregate"


def gains(recruitment: Recruitment) -> bool:
    """Whether merging is worth it: not where it is known to have been right less often than the first recruit."""
    return recruitment.gain is None or recruitment.gain >= 0


def merge(recruitment: Recruitment, answered: Sequence[Answered]) -> Fused:
    """What "auto" does without an aggregator: the vote, or the first recruit's answer where votes are known to lose."""
    return vote(recruitment, answered) if gains(recruitment) else best_single(recruitment, answered)


def vote(recruitment: Recruitment, answered: Sequence[Answered]) -> Fused:
    """The answer with most weight behind it; its heaviest supporter's text.

    Unreadable, failed and late answers are no votes. A tie goes to the answer with the heaviest single supporter,
    then to the one recruited first. Without any vote it is `best_single`.
    """
    camps = tally.camps(recruitment, answered)
    if not camps:
        return best_single(recruitment, answered)
    winner = camps[0]
    weights = tally.weights(recruitment, answered)
    shares = tally.shares(recruitment, answered)
    spokesman = max(winner.members, key=lambda item: weights[item.expert])
    agreed = f"{len(winner.members)} of {len(weights)} experts agree"
    return Fused(
        method="vote",
        answer=winner.answer,
        text=grading.visible(spokesman.text),
        expert=spokesman.expert,
        confidence=shares[winner.answer],
        votes=_votes(recruitment, answered),
        note="; ".join(filter(None, (agreed, _missing(recruitment, answered)))),
    )


def best_single(recruitment: Recruitment, answered: Sequence[Answered]) -> Fused:
    """The answer of the first recruit that gave one: a parsed one if there is any. None at all: method "none"."""
    ordered = tally.in_order(recruitment, answered)
    usable = [item for item in ordered if item.is_vote] or [item for item in ordered if is_usable(item)]
    missing = _missing(recruitment, answered)
    if not usable:
        return Fused(
            method="none",
            answer="",
            text="",
            expert=None,
            confidence=0.0,
            votes={},
            note=f"no expert answered: {missing}",
        )
    best = usable[0]
    return Fused(
        method="best_single",
        answer=best.answer,
        text=grading.visible(best.text),
        expert=best.expert,
        confidence=_support(recruitment, answered, best.answer),
        votes=_votes(recruitment, answered),
        note=missing,
    )


def read_aggregate(
    recruitment: Recruitment, answered: Sequence[Answered], question: Question, completion: Answered
) -> Fused:
    """What the aggregator's `completion` settles on.

    A failed or empty completion, or one without a choice where the question has options, gives way to `merge`.
    `question` of a conversation is a free-form one with the last user message as its text.
    """
    text = grading.visible(completion.text)
    answer = grading.extract(completion.text, question) if is_usable(completion) else ""
    if not text or not is_usable(completion) or (question.options and not answer):
        voted = merge(recruitment, answered)
        why = f"the aggregator {completion.expert} {trouble(completion)}, so the experts' own answers were taken"
        return _noted(voted, why)
    return Fused(
        method="aggregate",
        answer=answer,
        text=text,
        expert=completion.expert,
        confidence=_support(recruitment, answered, answer),
        votes=_votes(recruitment, answered),
        note=_missing(recruitment, answered),
    )


def _votes(recruitment: Recruitment, answered: Sequence[Answered]) -> dict[str, float]:
    if recruitment.doubt is not None:
        return tally.shares(recruitment, answered)
    return {camp.answer: camp.weight for camp in tally.camps(recruitment, answered)}


def _support(recruitment: Recruitment, answered: Sequence[Answered], answer: str) -> float:
    """How much stands behind `answer`: its share of all weight, or its probability."""
    shares = tally.shares(recruitment, answered)
    return sum(share for other, share in shares.items() if equality.same(other, answer))


def _missing(recruitment: Recruitment, answered: Sequence[Answered]) -> str:
    """Whose answer could not be counted, and why: "a failed, b was late"."""
    by_expert = {item.expert: item for item in answered}
    troubles = [f"{item.expert} {trouble(item)}" for item in answered if not item.is_vote]
    troubles += [
        f"{recruit.expert} gave no answer" for recruit in recruitment.recruits if recruit.expert not in by_expert
    ]
    return ", ".join(troubles)


def trouble(item: Answered) -> str:
    """Why it is no vote: "failed", "was late" …"""
    if item.finish_reason == "late":
        return "was late"
    if item.finish_reason not in ("stop", "length"):
        return "failed"
    if _is_lost(item):
        return "repeated itself until it was cut off"
    return "was cut off before its answer" if item.finish_reason == "length" else "gave no readable answer"


def _noted(fused: Fused, why: str) -> Fused:
    return dataclasses.replace(fused, note="; ".join(filter(None, (why, fused.note))))
