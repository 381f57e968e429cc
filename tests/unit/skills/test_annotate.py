import pytest
from hypothesis import given
from hypothesis import strategies as st

from skills import annotate


@pytest.mark.parametrize(
    ("text", "skills"),
    [
        ("algebra, organic chemistry", ("algebra", "organic chemistry")),
        ("Skills: Algebra, Geometry.", ("algebra", "geometry")),
        ("1. Algebra\n2. **Geometry**\n3. Algebra", ("algebra", "geometry")),
        ("- logic\n* set theory", ("logic", "set theory")),
        ("Here are the skills you need:\nalgebra and geometry", ("algebra", "geometry")),
        ("<think>maybe poetry, law</think>algebra", ("algebra",)),
        ("<think>maybe poetry, law", ()),
        ("understanding of very long descriptions", ()),
        ("a, b1, 42, , one two three four", ("b1",)),
        ("a1, b2, c3, d4, e5, f6", ("a1", "b2", "c3", "d4", "e5")),
        ("", ()),
    ],
)
def test_skills_are_read_however_they_are_listed(text: str, skills: tuple[str, ...]) -> None:
    assert annotate.parse(text) == skills


def test_keywords_of_more_than_twenty_characters_are_dropped() -> None:
    assert annotate.parse("a" * 20) == ("a" * 20,)
    assert annotate.parse("a" * 21) == ()


def test_only_what_is_named_twice_is_kept_the_most_named_first() -> None:
    samples = [("logic", "law"), ("algebra", "law"), ("logic", "law"), ("poetry",), ()]
    assert annotate.vote(samples) == ("law", "logic")


def test_one_sample_cannot_vote_twice() -> None:
    assert annotate.vote([("law", "law")]) == ()
    assert annotate.vote([("law", "law")], min_votes=1) == ("law",)


def test_no_sample_means_no_skill() -> None:
    assert annotate.vote([]) == ()


def test_the_question_is_asked_about_and_cut_if_endless() -> None:
    system, user = annotate.messages("What is {x}?")
    assert system["role"] == "system"
    assert "What is {x}?" in user["content"]
    assert len(annotate.messages("x" * 100_000)[1]["content"]) < 6000


@given(st.text(max_size=300))
def test_any_text_gives_at_most_five_short_skills(text: str) -> None:
    skills = annotate.parse(text)
    assert len(skills) <= annotate.MAX_SKILLS
    assert all(2 <= len(skill) <= annotate.MAX_SKILL_CHARS for skill in skills)
