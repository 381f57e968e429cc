import dataclasses
from collections.abc import Sequence

import pytest

from orchestrator import recruiting
from orchestrator.fusion import fusion, trials
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence
from tests.unit.orchestrator.made_up import World

EQUALS = World(strength={name: {"all": 0.6} for name in "abcd"})
EVIDENCE = EQUALS.evidence(100)


def items(strategy: str = "posterior", most: int = 48) -> list[trials.Item]:
    return trials.items(EVIDENCE, strategy=strategy, k=3, seed=1, most=most)


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_items_are_what_the_recruits_had_answered(strategy: str) -> None:
    found = items(strategy)
    assert found
    rows = {question.id: row for row, question in enumerate(EVIDENCE.questions)}
    for item in found:
        assert item.recruitment.strategy == strategy
        assert [each.expert for each in item.answered] == [each.expert for each in item.recruitment.recruits]
        row = EVIDENCE.answers[rows[item.question.id]]
        assert [each.answer for each in item.answered] == [
            row[EVIDENCE.experts.index(each.expert)] for each in item.answered
        ]


def test_items_are_repeatable_and_no_question_comes_twice() -> None:
    assert items() == items()
    assert len({item.question.id for item in items()}) == len(items()) == 48
    assert len(items(most=10)) == 10


class Reader(Recruiter):
    """Recruits the first experts; notes whether it had seen the question."""

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        texts = {question.text for question in self.evidence.questions}
        recruits = tuple(Recruit(expert=name, suitability=1.0, weight=1.0) for name in self.evidence.experts[:k])
        return [
            Recruitment(strategy="reader", recruits=recruits, note="seen" if ask.text in texts else "new")
            for ask in asks
        ]


@pytest.mark.parametrize("most", [5, 100])
def test_nobody_is_recruited_by_what_they_had_answered_there(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    kept = []

    def fit(evidence: Evidence) -> Recruiter:
        kept.append(len(evidence.questions))
        return Reader(evidence=evidence)

    monkeypatch.setitem(recruiting.STRATEGIES, "reader", fit)
    assert {item.recruitment.note for item in items("reader", most)} == {"new"}
    assert kept == ([95] if most == 5 else [80] * 5)


def test_answers_without_anything_to_count_or_to_merge_make_no_item() -> None:
    silent = dataclasses.replace(EVIDENCE, answers=tuple(("",) * 4 for _ in EVIDENCE.answers))
    assert trials.items(silent, strategy="posterior", k=3, seed=1) == []
    assert trials.items(EVIDENCE, strategy="posterior", k=1, seed=1) == []


def test_a_trial_sets_merging_beside_the_vote_and_the_first_recruit() -> None:
    item = items()[0]
    voted = fusion.vote(item.recruitment, item.answered)
    right = trials.read(item, Answered(expert="x", text=f"The answer is ({item.question.answer}).", answer=""))
    assert (right.right, right.is_choice, right.strategy) == (True, True, "posterior")
    assert right.confidence == voted.confidence
    assert right.vote_right == (voted.answer == item.question.answer)
    failed = trials.read(item, Answered(expert="x", text="", answer="", finish_reason="error"))
    assert failed.right == (fusion.merge(item.recruitment, item.answered).answer == item.question.answer)
