import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skills import question_set
from skills.question_set import QuestionSetError

GOOD = {"id": "a", "question": "2+2?", "options": ["3", "4"], "answer": "B", "category": "sums", "skills": ["adding"]}


def test_a_line_becomes_a_question() -> None:
    (question,) = question_set.parse([json.dumps(GOOD)])
    assert (question.id, question.text, question.options, question.answer) == ("a", "2+2?", ("3", "4"), "B")
    assert (question.category, question.skills) == ("sums", ("adding",))


def test_the_answer_may_be_a_lower_case_letter_an_option_s_text_or_a_number() -> None:
    assert question_set.parse([json.dumps(GOOD | {"answer": "b"})])[0].answer == "B"
    assert question_set.parse([json.dumps(GOOD | {"answer": "4"})])[0].answer == "B"
    assert question_set.parse(['{"id": 7, "question": "2+2?", "answer": 4}'])[0].answer == "4"


def test_blank_lines_a_byte_order_mark_and_unknown_fields_do_no_harm() -> None:
    lines = ["\ufeff" + json.dumps(GOOD), "", "  ", json.dumps(GOOD | {"id": "b", "source": "me"})]
    assert [question.id for question in question_set.parse(lines)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "must be an object"),
        (json.dumps({"id": "x", "question": "?"}), "`answer` is missing"),
        (json.dumps({"question": "?", "answer": "1"}), "`id` is missing"),
        (json.dumps(GOOD | {"question": " "}), "`question` must be"),
        (json.dumps(GOOD | {"answer": "C"}), "A to B"),
        (json.dumps(GOOD | {"answer": None}), "`answer` is missing"),
        (json.dumps(GOOD | {"options": ["one"]}), "2 to 26"),
        (json.dumps(GOOD | {"options": ["one", "one"]}), "the same"),
        (json.dumps(GOOD | {"options": "AB"}), "list"),
        (json.dumps(GOOD | {"skills": [1, None]}), "`skills[1]`"),
        (json.dumps(GOOD | {"category": 3}), "`category`"),
        (json.dumps(GOOD | {"id": "x" * 300}), "300 characters"),
        (json.dumps(GOOD | {"question": "a\0b"}), "NUL"),
        (json.dumps(GOOD | {"question": "a\ud800b"}), "surrogate"),
        ('{"category": "\\uDFFF"}', "surrogate"),
        (json.dumps(GOOD), "line 1, too"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str, says: str) -> None:
    with pytest.raises(QuestionSetError) as caught:
        question_set.parse([json.dumps(GOOD), "", line])
    assert caught.value.line == 3
    assert says in caught.value.message
    assert str(caught.value).startswith("line 3: ")


@given(
    st.text(max_size=60)
    | st.dictionaries(st.sampled_from(list(GOOD)), st.none() | st.text() | st.integers()).map(json.dumps)
)
def test_any_line_is_a_question_or_a_question_set_error(line: str) -> None:
    with contextlib.suppress(QuestionSetError):
        assert all(question.answer for question in question_set.parse([line]))
