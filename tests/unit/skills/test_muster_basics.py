"""The question set that ships: its shape, so that an edit cannot tilt profiles unseen."""

from collections import Counter
from pathlib import Path

import pytest

from skills import annotate, question_set
from skills.question import Question

PATH = Path(question_set.__file__).parent / "sets" / "muster-basics.jsonl"


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return question_set.parse(PATH.read_text(encoding="utf-8").splitlines())


def test_there_are_ten_questions_in_each_of_twelve_categories(questions: list[Question]) -> None:
    assert set(Counter(question.category for question in questions).values()) == {10}
    assert len(questions) == 120


def test_most_have_four_options_and_the_right_one_stands_anywhere(questions: list[Question]) -> None:
    letters = Counter(question.answer for question in questions if question.options)
    assert {len(question.options) for question in questions} == {0, 4}
    assert 90 <= letters.total() <= 110
    assert max(letters.values()) - min(letters.values()) <= 1


def test_no_category_can_be_passed_by_always_saying_one_letter(questions: list[Question]) -> None:
    for category in {question.category for question in questions}:
        letters = Counter(
            question.answer for question in questions if question.category == category and question.options
        )
        assert max(letters.values()) <= 3


def test_no_question_is_asked_twice(questions: list[Question]) -> None:
    assert len({question.text.casefold() for question in questions}) == len(questions)


def test_skills_are_short_shared_and_enough_to_tell_experts_apart(questions: list[Question]) -> None:
    skills = Counter(skill for question in questions for skill in question.skills)
    assert 40 <= len(skills) <= 60
    assert min(skills.values()) >= 2
    for question in questions:
        assert 2 <= len(set(question.skills)) == len(question.skills) <= 4
        assert all(skill == skill.lower() and len(skill) <= annotate.MAX_SKILL_CHARS for skill in question.skills)
