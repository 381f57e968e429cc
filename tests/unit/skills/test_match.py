from collections.abc import Sequence

import numpy as np
import pytest

from skills import match, profile
from skills.evidence import Evidence, Floats
from skills.question import Question

AXES = np.eye(6, dtype=np.float32)
VOCABULARY = ("algebra", "law", "poetry")
NAMES = AXES[:3]


def between(first: int, second: int, cosine: float) -> Floats:
    """A unit vector at `cosine` to the first axis, the rest on the second."""
    return np.asarray(cosine * AXES[first] + np.sqrt(1 - cosine**2) * AXES[second], np.float32)


def test_each_keyword_goes_to_its_nearest_skill() -> None:
    embedded = np.stack([between(1, 5, 0.8), between(2, 5, 0.6)])
    (found,) = match.keywords([("justice", "rhyme")], [embedded], VOCABULARY, NAMES)
    assert [(each.skill, each.keyword) for each in found] == [(1, "justice"), (2, "rhyme")]
    assert [each.similarity for each in found] == pytest.approx([0.8, 0.6])


def test_a_keyword_below_the_floor_is_dropped() -> None:
    embedded = np.stack([between(1, 5, match.KEYWORD_FLOOR + 0.01), between(1, 5, match.KEYWORD_FLOOR - 0.01)])
    (found,) = match.keywords([("near", "far")], [embedded], VOCABULARY, NAMES)
    assert [each.keyword for each in found] == ["near"]


def test_a_keyword_of_the_vocabulary_needs_no_embedding() -> None:
    found = match.keywords([("Law",), ("justice",), ()], [None, None, None], VOCABULARY, None)
    assert [[each.skill for each in row] for row in found] == [[1], [], []]


def questions(embedding: Floats, names: Floats | None = NAMES, **more: int) -> tuple[match.Match, ...]:
    """Matched against two profile questions: one on axis 4 that needs law, one on axis 5 that needs poetry."""
    needs = np.array([[0, 1], [1, 2]])
    (found,) = match.questions(
        embedding[None], needs=needs, skills=3, profile_embeddings=AXES[[4, 5]], vocabulary_embeddings=names, **more
    )
    return found


def test_a_question_is_as_near_to_a_skill_as_its_name_or_its_nearest_profile_question() -> None:
    assert [each.skill for each in questions(AXES[0])] == [0]
    assert [each.skill for each in questions(AXES[4])] == [1]
    assert [each.skill for each in questions(between(2, 4, 0.6))] == [1, 2]


def test_a_question_like_no_other_matches_nothing() -> None:
    assert questions(AXES[3]) == ()


def test_without_names_profile_questions_decide() -> None:
    assert [each.skill for each in questions(AXES[5], None)] == [2]
    assert questions(AXES[0], None) == ()


def test_only_the_nearest_few_are_kept() -> None:
    assert [each.skill for each in questions(between(2, 4, 0.6), most=1)] == [1]


def test_many_questions_are_matched_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(600, 6)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    needs = np.array([[0, 1], [1, 2]])
    found = match.questions(many, needs=needs, skills=3, profile_embeddings=AXES[[4, 5]], vocabulary_embeddings=NAMES)
    for row, own in zip(many, found, strict=True):
        alone = questions(row)
        assert [each.skill for each in own] == [each.skill for each in alone]
        assert [each.similarity for each in own] == pytest.approx([each.similarity for each in alone], abs=1e-5)


def evidence(
    correct: Sequence[Sequence[float]], skills: Sequence[tuple[str, ...]], category: str | None = None
) -> Evidence:
    asked = tuple(
        Question(id=str(n), text="?", answer="x", skills=own, category=category) for n, own in enumerate(skills)
    )
    columns = len(correct[0])
    return Evidence(
        experts=tuple("abcdef"[:columns]),
        questions=asked,
        embeddings=np.zeros((len(asked), 6), np.float32),
        correct=np.array(correct, np.float32),
    )


def test_right_and_tried_are_counted_per_skill_and_never_asked_counts_for_nothing() -> None:
    found = profile.profiles(evidence([[1, np.nan], [0, 1], [1, 1]], [("law",), ("law", "algebra"), ()]))
    assert found.skills == ("algebra", "law")
    assert found.right.tolist() == [[0, 1], [1, 1]]
    assert found.tried.tolist() == [[1, 1], [2, 1]]
    assert (found.all_right.tolist(), found.all_tried.tolist()) == ([2, 2], [3, 2])


def test_a_skill_named_twice_on_a_question_counts_once() -> None:
    assert profile.profiles(evidence([[1]], [("law", "law")])).tried.tolist() == [[1]]


def test_strength_is_shrunk_towards_the_expert_s_own_overall_accuracy() -> None:
    found = profile.profiles(evidence([[1, 0]] * 40 + [[1, 1]], [("law",)] * 40 + [("algebra",)]))
    algebra, law = found.accuracy()
    assert law[0] > 0.9 > 0.3 > law[1]
    assert algebra[0] > 0.9
    assert algebra[1] < 0.3
    assert (np.abs(found.score()) <= 1).all()


def test_without_skills_categories_take_their_place() -> None:
    assert profile.profiles(evidence([[1], [0]], [(), ()], category="law")).skills == ("law",)
    nothing = profile.profiles(evidence([[1], [0]], [(), ()]))
    assert nothing.skills == ()
    assert float(nothing.competency().sum()) == pytest.approx(1)


def test_competency_prefers_the_stronger_and_sums_to_one() -> None:
    found = profile.profiles(evidence([[1, 0, 1]] * 20 + [[1, 0, 0]] * 20, [("law",)] * 40))
    strong, weak, middling = found.competency()
    assert strong > middling > weak > 0
    assert float(found.competency().sum()) == pytest.approx(1)


def test_strengths_are_told_in_words() -> None:
    found = profile.profiles(evidence([[1, np.nan], [0, np.nan]], [("law",), ("law",)]))
    assert (found.in_words(0, 0), found.overall_in_words(0)) == ("law 1/2", "overall 0.50")
    assert (found.in_words(0, 1), found.overall_in_words(1)) == ("law untried", "not profiled yet")
