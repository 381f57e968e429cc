"""Which expert merges best: the synthetic test. Pure: builds the test's items, scores what came of them, picks.

An item is a profile question with one right and up to two wrong completions of it. The expert that most often ends on
the right answer, in the area at hand, becomes the aggregator. Each item asks for the kind of answer that is then
read, a letter or a value, because prompt (`prompts.aggregator_messages`) and reader (`grading.extract`) go by the
same question; and questions that nobody solved, or nobody missed, make no item.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.answers import grading
from orchestrator.recruiting.values import Answered
from skills.evidence import Evidence
from skills.question import Question

ALL = ""
"""The area of all items together."""
MAX_ITEMS = 60
WRONG = 2
"""Wrong completions per item at most."""
SHRINKAGE = 4.0
"""Imagined items, at the expert's rate over all areas, that an area's count starts from."""
_PRIOR = 0.5

Scores = Mapping[str, Mapping[str, tuple[int, int]]]
"""Expert -> area -> (right, tried). Areas are categories, skills, and `ALL`."""


@dataclass(frozen=True, kw_only=True)
class TestItem:
    """One question to merge answers for, as `prompts.aggregator_messages` takes it."""

    __test__ = False  # its name starts like a test's

    question: Question
    answered: tuple[Answered, ...]
    """One right completion and one or two wrong ones, in random order."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What an expert made of an item."""

    expert: str
    question: Question
    text: str
    """Its completion; "" where it failed."""


def items(evidence: Evidence, *, seed: int, most: int = MAX_ITEMS) -> list[TestItem]:
    """Test items from what the experts answered when they were profiled, at most `most`, spread over categories.

    The completions' texts are used where they are kept, else a sentence with the answer.
    """
    rng = np.random.default_rng(seed)
    found = [item for row in rng.permutation(len(evidence.questions)) if (item := _item(evidence, int(row), rng))]
    return _spread(found, most)


def score(merged: Iterable[Merged]) -> dict[str, dict[str, tuple[int, int]]]:
    """How often each expert ended on the right answer: overall, per category and per skill."""
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    tried: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in merged:
        areas = areas_of(each.question)
        tried[each.expert].update(areas)
        if grading.is_correct(grading.extract(each.text, each.question), each.question):
            right[each.expert].update(areas)
    return {
        expert: {area: (right[expert][area], count) for area, count in own.items()} for expert, own in tried.items()
    }


def areas_of(question: Question) -> tuple[str, ...]:
    """The areas that an item on this question counts for."""
    return tuple(dict.fromkeys((ALL, *filter(None, (question.category,)), *question.skills)))


def given_by(evidence: Evidence, row: int, column: int) -> Answered:
    """What an expert answered: its text, or a sentence with the answer where no text is kept."""
    answer = evidence.answers[row][column] if evidence.answers else ""
    text = (evidence.texts[row][column] if evidence.texts else None) or ""
    if answer and not grading.visible(text):
        text = f"The answer is ({answer})." if evidence.questions[row].options else f"The answer is {answer}."
    reason = "stop" if text else "error"
    return Answered(expert=evidence.experts[column], text=text, answer=answer, finish_reason=reason)


def pick(scores: Scores, areas: Sequence[str], experts: Sequence[str]) -> str:
    """The expert among `experts` that merges best in these areas (categories or skills), judged overall where untried.

    Ties, and experts without any score, keep the order of `experts`. Raises `ValueError` if there are none.
    """
    if not experts:
        raise ValueError("there is no expert to pick an aggregator from")
    return max(experts, key=lambda expert: _strength(scores.get(expert, {}), areas))


def _strength(own: Mapping[str, tuple[int, int]], areas: Sequence[str]) -> float:
    """Rate of right answers in the areas, shrunk towards the rate over all."""
    right, tried = own.get(ALL, (0, 0))
    overall = (right + SHRINKAGE * _PRIOR) / (tried + SHRINKAGE)
    known = [own[area] for area in dict.fromkeys(areas) if area in own and area != ALL]
    right, tried = sum(count for count, _ in known), sum(count for _, count in known)
    return (right + SHRINKAGE * overall) / (tried + SHRINKAGE)


def _item(evidence: Evidence, row: int, rng: np.random.Generator) -> TestItem | None:
    """The item on one question; None where nobody solved it, or nobody gave a wrong answer."""
    question = evidence.questions[row]
    given = [given_by(evidence, row, column) for column in range(len(evidence.experts))]
    readable = [(item, evidence.correct[row, column]) for column, item in enumerate(given) if item.is_vote]
    right = [item for item, correct in readable if correct == 1]
    wrong = [item for item, correct in readable if correct == 0]
    if not right or not wrong:
        return None
    chosen = [right[rng.integers(len(right))], *_distinct([wrong[n] for n in rng.permutation(len(wrong))])]
    return TestItem(question=question, answered=tuple(chosen[n] for n in rng.permutation(len(chosen))))


def _distinct(wrong: Sequence[Answered]) -> list[Answered]:
    """Up to `WRONG` of them, different answers first: two alike would make a majority for the wrong one."""
    first: dict[str, Answered] = {}
    for item in wrong:
        first.setdefault(item.answer, item)
    rest = [item for item in wrong if first[item.answer] is not item]
    return [*first.values(), *rest][:WRONG]


def _spread(found: Sequence[TestItem], most: int) -> list[TestItem]:
    """At most `most`, taken from the categories in turn."""
    queues: defaultdict[str, list[TestItem]] = defaultdict(list)
    for item in found:
        queues[item.question.category or ALL].append(item)
    rounds = itertools.zip_longest(*queues.values())
    return [item for turn in rounds for item in turn if item is not None][:most]
