import dataclasses
from collections import Counter

import numpy as np
import pytest

from orchestrator import prompts
from orchestrator.answers import grading
from orchestrator.fusion import aggregators
from orchestrator.fusion.aggregators import Merged
from skills.evidence import Evidence
from skills.question import Question

OPTIONS = ("one", "two", "three", "four")


def choice(name: str, category: str = "law") -> Question:
    return Question(id=name, text=f"{name}?", options=OPTIONS, answer="A", category=category, skills=("reading",))


def evidence(questions: list[Question], answers: list[str], texts: list[list[str | None]] | None = None) -> Evidence:
    """`answers`: a string per question, a letter per expert; "." for none."""
    given = tuple(tuple(letter.strip(".") for letter in row) for row in answers)
    correct = [
        [float(grading.is_correct(answer, question)) for answer in row]
        for question, row in zip(questions, given, strict=True)
    ]
    return Evidence(
        experts=tuple(f"e{n}" for n in range(len(answers[0]))),
        questions=tuple(questions),
        embeddings=np.zeros((len(questions), 4), np.float32),
        correct=np.array(correct, np.float32),
        answers=given,
        texts=tuple(map(tuple, texts)) if texts else (),
    )


def test_an_item_has_one_right_and_two_different_wrong_completions() -> None:
    (item,) = aggregators.items(evidence([choice("q")], ["AABBC"]), seed=1)
    assert sorted(each.answer for each in item.answered) == ["A", "B", "C"]


def test_questions_nobody_solved_or_nobody_missed_are_left_out() -> None:
    made = evidence(
        [choice("unsolved"), choice("solved"), choice("unread"), choice("good")], ["BCD", "AAA", "A..", "AB."]
    )
    assert [item.question.id for item in aggregators.items(made, seed=1)] == ["good"]


def test_no_completion_is_empty() -> None:
    made = evidence([choice("q")], ["AB."], [["The answer is (A).", None, ""]])
    (item,) = aggregators.items(made, seed=1)
    assert sorted(each.text for each in item.answered) == ["The answer is (A).", "The answer is (B)."]


def test_the_right_completion_stands_anywhere() -> None:
    made = evidence([choice(f"q{n}") for n in range(60)], ["ABC"] * 60)
    places = Counter([each.answer for each in item.answered].index("A") for item in aggregators.items(made, seed=3))
    assert set(places) == {0, 1, 2}


def test_items_are_repeatable_and_spread_over_categories() -> None:
    questions = [choice(f"law{n}") for n in range(20)] + [choice(f"art{n}", "art") for n in range(3)]
    made = evidence(questions, ["AB"] * 23)
    first = aggregators.items(made, seed=5, most=6)
    assert first == aggregators.items(made, seed=5, most=6)
    assert Counter(item.question.category for item in first) == {"law": 3, "art": 3}


def test_mathematics_asks_for_the_kind_of_answer_that_is_read() -> None:
    question = Question(id="m", text="1/2 + 1/4?", answer="3/4")
    made = evidence([question], ["12"])
    (item,) = aggregators.items(
        dataclasses.replace(made, answers=(("3/4", "2/6"),), correct=np.array([[1, 0]], np.float32)), seed=0
    )
    *_, user = prompts.aggregator_messages(item.question, item.answered)
    assert "letter" not in user.content
    for text in ("So the answer is 3/4.", "\\boxed{\\frac{3}{4}}", "It is 0.75"):
        scores = aggregators.score([Merged(expert="a", question=question, text=text)])
        assert scores["a"][aggregators.ALL] == (1, 1)


def test_scores_are_counted_per_area_and_failures_are_tries() -> None:
    merged = [
        Merged(expert="a", question=choice("q1"), text="The answer is (A)."),
        Merged(expert="a", question=choice("q2", "art"), text=""),
        Merged(expert="b", question=choice("q1"), text="The answer is (B)."),
    ]
    scores = aggregators.score(merged)
    assert scores["a"] == {"": (1, 2), "law": (1, 1), "reading": (1, 2), "art": (0, 1)}
    assert scores["b"][""] == (0, 1)


SCORES = {
    "lawyer": {"": (10, 20), "law": (9, 10), "art": (1, 10)},
    "artist": {"": (11, 20), "law": (1, 10), "art": (10, 10)},
}


@pytest.mark.parametrize(
    ("areas", "best"), [(["law"], "lawyer"), (["art"], "artist"), (["physics"], "artist"), ([], "artist")]
)
def test_the_aggregator_is_the_one_that_merges_best_in_the_area(areas: list[str], best: str) -> None:
    assert aggregators.pick(SCORES, areas, ["lawyer", "artist"]) == best


def test_only_the_experts_at_hand_are_picked_and_without_scores_the_first() -> None:
    assert aggregators.pick(SCORES, ["art"], ["lawyer"]) == "lawyer"
    assert aggregators.pick({}, ["art"], ["x", "y"]) == "x"
    with pytest.raises(ValueError, match="no expert"):
        aggregators.pick(SCORES, [], [])


def test_one_lucky_item_does_not_beat_a_long_record() -> None:
    scores = {"lucky": {"": (1, 1)}, "proven": {"": (27, 30)}}
    assert aggregators.pick(scores, [], ["lucky", "proven"]) == "proven"
