"""Counting votes: who stands behind which answer, and what that is worth. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.answers import equality
from orchestrator.recruiting.values import Answered, Recruitment


@dataclass(frozen=True, kw_only=True)
class Camp:
    """Experts that gave the same answer."""

    answer: str
    members: tuple[Answered, ...]
    weight: float
    """Their weights, and what the question's choices lend the answer."""
    heaviest: float


def camps(recruitment: Recruitment, answered: Sequence[Answered]) -> list[Camp]:
    """Voters by answer, the winner first. A tie goes to the heaviest single supporter, then to the first recruit."""
    voters = [item for item in answered if item.is_vote]
    weighed = weights(recruitment, voters)
    groups: list[list[Answered]] = []
    for item in in_order(recruitment, voters):
        for group in groups:
            if group[0].answer == item.answer or equality.same(group[0].answer, item.answer):
                group.append(item)
                break
        else:
            groups.append([item])
    found = [
        Camp(
            answer=group[0].answer,
            members=tuple(group),
            weight=sum(weighed[item.expert] for item in group) + _leaning(recruitment, group[0].answer),
            heaviest=max(weighed[item.expert] for item in group),
        )
        for group in groups
    ]
    return sorted(found, key=lambda camp: (round(camp.weight, 9), camp.heaviest), reverse=True)


def shares(recruitment: Recruitment, answered: Sequence[Answered]) -> dict[str, float]:
    """Answer -> its share of all weight, the weight of silent recruits included; of log-odds, its probability.

    Probabilities are the softmax of the camps' weights beside the doubt that anybody is right.
    """
    found = camps(recruitment, answered)
    if recruitment.doubt is None:
        total = sum(weights(recruitment, answered).values())
        return {camp.answer: camp.weight / total if total else 0.0 for camp in found}
    voted = {item.expert for camp in found for item in camp.members}
    doubt = recruitment.doubt + sum(each.doubt for each in recruitment.recruits if each.expert in voted)
    highest = max([doubt, *(camp.weight for camp in found)])
    odds = [math.exp(camp.weight - highest) for camp in found]
    total = sum(odds) + math.exp(doubt - highest)
    return {camp.answer: each / total for camp, each in zip(found, odds, strict=True)}


def lead(recruitment: Recruitment, answered: Sequence[Answered]) -> float:
    """How far the winning answer is ahead of the next, or of an answer nobody gave; -inf without a vote."""
    found = camps(recruitment, answered)
    if not found:
        return -math.inf
    return found[0].weight - max(0.0, *(camp.weight for camp in found[1:]), 0.0)


def weights(recruitment: Recruitment, answered: Sequence[Answered]) -> dict[str, float]:
    """Expert -> weight, for the recruits and for whoever else answered."""
    recruited = {recruit.expert: recruit.weight for recruit in recruitment.recruits}
    lightest = min(recruited.values(), default=1.0)
    return recruited | {item.expert: lightest for item in answered if item.expert not in recruited}


def in_order(recruitment: Recruitment, answered: Sequence[Answered]) -> list[Answered]:
    """As recruited; others last."""
    order = {recruit.expert: position for position, recruit in enumerate(recruitment.recruits)}
    return sorted(answered, key=lambda item: order.get(item.expert, len(order)))


def _leaning(recruitment: Recruitment, answer: str) -> float:
    return recruitment.leanings.get(answer, 0.0)
