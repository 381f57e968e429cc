"""Which way to fuse: the gate that merging has to pass."""

import dataclasses

import pytest

from orchestrator.fusion import choosing, fusion, synthesis
from orchestrator.fusion.choosing import Choice
from orchestrator.fusion.synthesis import Synthesis, Trial
from orchestrator.recruiting.values import Answered, Recruit, Recruitment
from skills.question import Question

CHOICE = Question(id="q", text="?", options=("one", "two", "three"))
FREE = Question(id="q", text="?")


def recruited(**weights: float) -> Recruitment:
    recruits = tuple(Recruit(expert=name, suitability=weight, weight=weight) for name, weight in weights.items())
    return Recruitment(strategy="s", recruits=recruits)


def said(expert: str, answer: str, *, text: str | None = None) -> Answered:
    return Answered(expert=expert, text=f"The answer is ({answer})." if text is None else text, answer=answer)


def tried(*, unsure: float, sure: float, is_choice: bool = True) -> Synthesis:
    """Merging by "agg" gained this much over the vote (right in half the trials) where it was unsure, and sure."""

    def trials(confidence: float, gain: float) -> list[Trial]:
        rights = 10 + round(20 * gain)
        return [
            Trial(
                strategy="s",
                confidence=confidence,
                is_choice=is_choice,
                vote_right=n < 10,
                first_right=n < 10,
                right=n < rights,
            )
            for n in range(20)
        ]

    return synthesis.learn({"agg": [*trials(0.4, unsure), *trials(1.0, sure)]})


SPLIT = [said("a", "A"), said("b", "B"), said("c", "C")]
AGREED = [said("a", "A"), said("b", "A"), said("c", "A")]
THREE = recruited(a=1.2, b=1, c=1)


def choose(answered: list[Answered], learnt: Synthesis, question: Question = CHOICE, **given: object) -> Choice:
    recruitment = given.pop("recruitment", THREE)
    assert isinstance(recruitment, Recruitment)
    options: dict[str, object] = {"aggregator": "agg", **given}
    return choosing.choose(recruitment, answered, question, learnt=learnt, **options)  # type: ignore[arg-type]


def test_an_aggregator_that_wins_where_votes_are_unsure_is_chosen_there_only() -> None:
    learnt = tried(unsure=0.4, sure=0.0)
    merged = choose(SPLIT, learnt)
    assert (merged.method, merged.otherwise) == ("aggregate", "vote")
    assert merged.gain is not None
    assert merged.gain > 0.2
    assert merged.why.startswith("merging by agg is known to gain here: +0.")
    counted = choose(AGREED, learnt)
    assert counted.method == "vote"
    assert "merging by agg is not known to gain here" in counted.why


@pytest.mark.parametrize("question", [CHOICE, FREE])
@pytest.mark.parametrize("answered", [SPLIT, AGREED])
def test_an_aggregator_that_loses_is_never_chosen(question: Question, answered: list[Answered]) -> None:
    learnt = tried(unsure=-0.4, sure=-0.4, is_choice=question is CHOICE)
    assert choose(answered, learnt, question).method == "vote"


def test_a_first_recruit_that_beats_votes_is_beaten_only_by_what_is_known_to_beat_it() -> None:
    recruitment = dataclasses.replace(THREE, gain=-0.02)
    assert choose(SPLIT, tried(unsure=0.0, sure=0.0), recruitment=recruitment).method == "best_single"
    assert choose(SPLIT, tried(unsure=0.4, sure=0.0), recruitment=recruitment).method == "aggregate"


@pytest.mark.parametrize(
    ("question", "answered"),
    [
        (CHOICE, SPLIT),
        (CHOICE, AGREED),
        (CHOICE, [said("a", "", text="hm"), said("b", "", text="well")]),
        (CHOICE, [said("a", "A")]),
        (CHOICE, []),
        (FREE, SPLIT),
        (FREE, AGREED),
    ],
)
def test_without_trials_the_rule_decides(question: Question, answered: list[Answered]) -> None:
    choice = choose(answered, synthesis.NOTHING, question)
    assert choice.method == fusion.choose(THREE, answered, question)
    assert choice.why or choice.method == "none"


def test_trials_on_short_answers_say_nothing_of_long_ones_and_of_one_alone() -> None:
    learnt = tried(unsure=-0.4, sure=-0.4, is_choice=False)
    assert choose([said("a", "x" * 90), said("b", "y" * 90)], learnt, FREE).method == "aggregate"
    gaining = tried(unsure=0.4, sure=0.4)
    assert choose([said("a", "A")], gaining).method == "best_single"


def test_what_was_asked_for_is_done() -> None:
    assert choose(SPLIT, tried(unsure=0.4, sure=0.4), wanted="vote").why == "vote was asked for"
    assert choose(AGREED, tried(unsure=-0.4, sure=-0.4), wanted="aggregate").method == "aggregate"
    with pytest.raises(ValueError, match="no fusion 'blend'"):
        choose(SPLIT, synthesis.NOTHING, wanted="blend")


def test_where_nobody_can_merge_the_better_of_vote_and_first_recruit_is_taken() -> None:
    assert choose(SPLIT, synthesis.NOTHING, FREE, aggregator=None).method == "vote"
    losing = dataclasses.replace(THREE, gain=-0.02)
    merged = choose(SPLIT, tried(unsure=0.4, sure=0.4), recruitment=losing)
    assert merged.without_aggregator("it is not loaded").method == "best_single"


def test_the_answer_says_why_it_was_fused_so_unless_it_came_about_otherwise() -> None:
    choice = choose(SPLIT, tried(unsure=0.4, sure=0.0))
    merged = fusion.read_aggregate(THREE, SPLIT, CHOICE, said("agg", "", text="So it is (B)."))
    assert choice.explains(merged).note.startswith("merging by agg is known to gain here")
    assert choice.explains(merged).gain == choice.gain
    fallen_back = fusion.read_aggregate(THREE, SPLIT, CHOICE, said("agg", "", text="Who knows."))
    assert choice.explains(fallen_back) == fallen_back
    assert fallen_back.note.startswith("the aggregator agg gave no readable answer")
