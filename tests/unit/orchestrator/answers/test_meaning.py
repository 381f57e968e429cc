from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.answers import meaning
from skills.evidence import Floats


def near(texts: Sequence[str]) -> Floats:
    """Every text is near every other: what is left is the wording."""
    return np.ones((len(texts), 1), np.float32)


def far(texts: Sequence[str]) -> Floats:
    return np.eye(len(texts), dtype=np.float32)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Paris", "the city of Paris"),
        ("William Shakespeare", "Shakespeare"),
        ("supply and demand", "demand and supply"),
        ("Newton's second law", "the second law of Newton"),
        ("a mammal", "mammals"),
        ("yes", "Yes, it is."),
        ("no", "No, it does not"),
        ("1,200", "1200.0"),
    ],
)
def test_another_wording_is_the_same_answer(first: str, second: str) -> None:
    assert meaning.representatives([first, second], near) == [first, first]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Paris", "London"),
        ("it is legal", "it is not legal"),
        ("World War I", "World War II"),
        ("Elizabeth", "Elizabeth II"),
        ("Korea", "North Korea"),
        ("a is greater than b", "b is greater than a"),
        ("the Revolution", "the Revolution of 1789"),
        ("3 apples", "4 apples"),
        ("yes", "no"),
    ],
)
def test_a_word_that_turns_the_answer_makes_it_another(first: str, second: str) -> None:
    assert meaning.representatives([first, second], near) == [first, second]


def test_words_added_must_not_move_the_embedding() -> None:
    assert meaning.representatives(["iron", "iron oxide"], far) == ["iron", "iron oxide"]


def test_long_texts_and_none_stand_for_themselves() -> None:
    long = "word " * 40
    assert meaning.representatives(["", long, long + "more", ""], near) == ["", long, long + "more", ""]


def test_every_answer_that_agrees_takes_the_words_of_the_first() -> None:
    answers = ["Sir Isaac Newton", "Newton", "Leibniz", "Isaac Newton"]
    assert meaning.representatives(answers, near) == [
        "Sir Isaac Newton",
        "Sir Isaac Newton",
        "Leibniz",
        "Sir Isaac Newton",
    ]
