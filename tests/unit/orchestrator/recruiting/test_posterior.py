import dataclasses
from collections import Counter

import numpy as np
import pytest

from orchestrator import recruiting
from orchestrator.fusion import fusion
from orchestrator.recruiting import listwise, tally
from orchestrator.recruiting.adaptive import AdaptiveRecruiter
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment
from skills.question import Question
from tests.unit.orchestrator.made_up import DIMENSIONS, SPECIALISTS, World

LEARNT = recruiting.fit("posterior", SPECIALISTS.evidence(400))
NEW = SPECIALISTS.questions(200, salt=1)


def names(recruitment: Recruitment) -> list[str]:
    return [recruit.expert for recruit in recruitment.recruits]


def recruit(recruiter: Recruiter, asks: list[Ask], k: int) -> list[Recruitment]:
    return recruiter.recruit(asks, k=k, seeds=[0] * len(asks))


def accuracy(world: World, recruiter: Recruiter, k: int) -> float:
    questions = world.questions(300, salt=1)
    said = world.answers(questions, salt=1)
    right = 0
    for recruitment, row, question in zip(recruit(recruiter, world.asks(questions), k), said, questions, strict=True):
        by_name = dict(zip(world.experts, row, strict=True))
        answered = [Answered(expert=name, text="said", answer=by_name[name]) for name in names(recruitment)]
        right += fusion.vote(recruitment, answered).answer == question.answer
    return right / len(questions)


def test_the_specialist_is_recruited_for_its_own_questions() -> None:
    for question, found in zip(NEW, recruit(LEARNT, SPECIALISTS.asks(NEW), 1), strict=True):
        assert names(found) == [{"algebra": "mathy", "poetry": "poet"}[question.category or ""]]


def test_of_two_who_fail_together_only_one_is_recruited() -> None:
    """The twin is better than `other` alone, but adds nothing to its original."""
    strength = {"first": {"all": 0.65}, "other": {"all": 0.55}, "third": {"all": 0.55}}
    world = World(strength=strength, twins={"twin": "first"})
    recruiter = recruiting.fit("posterior", world.evidence(600))
    chosen = Counter(frozenset(names(each)) for each in recruit(recruiter, world.asks(world.questions(100, salt=1)), 3))
    together = sum(count for council, count in chosen.items() if {"first", "twin"} <= council)
    assert together < 10


def test_fusion_of_three_is_right_more_often_than_the_best_expert() -> None:
    assert accuracy(SPECIALISTS, LEARNT, 3) > accuracy(SPECIALISTS, LEARNT, 1) - 0.01
    equals = World(strength={name: {"all": 0.6} for name in "abcd"})
    recruiter = recruiting.fit("posterior", equals.evidence(400))
    assert accuracy(equals, recruiter, 3) > accuracy(equals, recruiter, 1) + 0.05


@pytest.mark.parametrize("free_form", [True, False])
@pytest.mark.parametrize("with_answers", [True, False])
def test_it_learns_whatever_is_missing(free_form: bool, with_answers: bool) -> None:
    world = dataclasses.replace(SPECIALISTS, free_form=free_form)
    evidence = world.evidence(300, with_answers=with_answers)
    holes = evidence.correct.copy()
    holes[np.random.default_rng(0).random(holes.shape) < 0.3] = np.nan
    holes[:, 3] = np.nan
    recruiter = recruiting.fit("posterior", dataclasses.replace(evidence, correct=holes))
    assert accuracy(world, recruiter, 3) > 0.8


@pytest.mark.parametrize("kept", ["all", "some", "none"])
def test_texts_make_no_difference_to_who_is_recruited(kept: str) -> None:
    evidence = SPECIALISTS.evidence(100)
    bare = tuple((None,) * 4 for _ in evidence.questions)
    some = tuple((None, "I think it is B.", None, "") for _ in evidence.questions)
    full = tuple(("The answer is (A).",) * 4 for _ in evidence.questions)
    masked = dataclasses.replace(evidence, texts={"all": full, "some": some, "none": bare}[kept])
    asks = SPECIALISTS.asks(NEW)
    assert recruit(recruiting.fit("posterior", masked), asks, 2) == recruit(
        recruiting.fit("posterior", evidence), asks, 2
    )


def test_skills_help_where_the_text_says_nothing() -> None:
    evidence = SPECIALISTS.evidence(400)
    blank = np.tile(np.eye(DIMENSIONS, dtype=np.float32)[0], (400, 1))
    skilled = dataclasses.replace(
        evidence,
        embeddings=blank,
        questions=tuple(dataclasses.replace(each, skills=(each.category or "",)) for each in evidence.questions),
        skill_names=SPECIALISTS.domains,
        skill_embeddings=SPECIALISTS.embed(SPECIALISTS.domains),
    )
    recruiter = recruiting.fit("posterior", skilled)
    vector = SPECIALISTS.embed(["poetry"])
    named = Ask(text="?", embedding=blank[0], skills=("poetry",), skill_embeddings=vector)
    (found,) = recruit(recruiter, [named], 1)
    assert names(found) == ["poet"]
    (unnamed,) = recruit(recruiter, [Ask(text="?", embedding=blank[0])], 1)
    assert unnamed.recruits[0].probability == pytest.approx(0.5, abs=0.15)


def test_an_off_domain_question_falls_back_to_overall_competency() -> None:
    away = -SPECIALISTS.embed(["algebra"])[0] - SPECIALISTS.embed(["poetry"])[0]
    (found,) = recruit(LEARNT, [Ask(text="?", embedding=away / np.linalg.norm(away))], 1)
    assert found.off_domain
    assert names(found) == ["solid"]
    assert "no profile question" in found.note


def test_probabilities_come_true() -> None:
    said, was = [], []
    answers = SPECIALISTS.answers(NEW, salt=1)
    for found, row, question in zip(recruit(LEARNT, SPECIALISTS.asks(NEW), 4), answers, NEW, strict=True):
        by_name = dict(zip(SPECIALISTS.experts, row, strict=True))
        said += [each.probability for each in found.recruits]
        was += [by_name[each.expert] == question.answer for each in found.recruits]
    high = np.array(said) > 0.75
    assert np.mean(np.array(was)[high]) == pytest.approx(np.mean(np.array(said)[high]), abs=0.07)


def test_what_the_choices_show_is_learnt_and_tips_the_vote() -> None:
    """Here the longest choice is right."""
    world = World(strength={"a": {"all": 0.5}, "b": {"all": 0.5}})
    evidence = world.evidence(300)
    longer = tuple(
        dataclasses.replace(
            each,
            options=tuple(
                f"{option} of all" * (4 if "ABCDEF"[place] == each.answer else 1)
                for place, option in enumerate(each.options)
            ),
        )
        for each in evidence.questions
    )
    recruiter = recruiting.fit("posterior", dataclasses.replace(evidence, questions=longer))
    ask = dataclasses.replace(world.asks(world.questions(1, salt=1))[0], choices=longer[0].options)
    (found,) = recruit(recruiter, [ask], 2)
    assert max(found.leanings, key=lambda letter: found.leanings[letter]) == longer[0].answer
    other = "A" if longer[0].answer != "A" else "B"
    split = [
        Answered(expert="a", text="said", answer=longer[0].answer or ""),
        Answered(expert="b", text="said", answer=other),
    ]
    assert fusion.vote(found, split).answer == longer[0].answer


def test_uncertainty_is_large_where_no_question_is_near_and_shrinks_with_evidence() -> None:
    asks = SPECIALISTS.asks(NEW[:1])
    away = Ask(text="?", embedding=np.asarray(-asks[0].embedding))
    near, far = recruit(LEARNT, [*asks, away], 4)
    fewer = recruit(recruiting.fit("posterior", SPECIALISTS.evidence(40)), asks, 4)[0]

    def spread(recruitment: Recruitment) -> float:
        return sum(each.uncertainty or 0 for each in recruitment.recruits)

    assert spread(near) < spread(fewer)
    assert spread(near) < spread(far)


def test_where_votes_were_known_to_lose_the_likeliest_recruit_answers() -> None:
    recruits = tuple(Recruit(expert=name, suitability=0.5, weight=1.0) for name in "abc")
    said = [Answered(expert=name, text=name, answer=letter) for name, letter in zip("abc", "ABB", strict=True)]
    question = Question(id="1", text="?", options=("x", "y"))
    for gain, method, answer in [(0.1, "vote", "B"), (None, "vote", "B"), (-0.1, "best_single", "A")]:
        recruitment = Recruitment(strategy="posterior", recruits=recruits, gain=gain)
        assert fusion.merge(recruitment, said).answer == answer
        assert fusion.choose(recruitment, said, question) == method


def test_the_gain_of_votes_is_measured() -> None:
    equals = World(strength={name: {"all": 0.6} for name in "abcd"})
    alone = World(strength={"a": {"all": 0.9}}, twins={"b": "a", "c": "a"})
    gains = [
        recruit(recruiting.fit("posterior", world.evidence(300)), world.asks(world.questions(1, salt=1)), 3)[0].gain
        for world in (equals, alone)
    ]
    assert gains[0] is not None
    assert gains[0] > 0.05
    assert gains[1] == pytest.approx(0, abs=1e-6)


def test_votes_with_doubt_are_probabilities_and_silence_counts_for_nothing() -> None:
    recruits = tuple(Recruit(expert=name, suitability=0.5, weight=1.0, doubt=0.2) for name in "abc")
    recruitment = Recruitment(strategy="posterior", recruits=recruits, leanings={"A": 0.5}, doubt=0.0)
    said = [
        Answered(expert="a", text="x", answer="A"),
        Answered(expert="b", text="x", answer="B"),
        Answered(expert="c", text="", answer=""),
    ]
    shares = tally.shares(recruitment, said)
    odds = np.exp([1.5, 1.0, 0.4])
    assert list(shares.values()) == pytest.approx(odds[:2] / odds.sum())
    assert fusion.vote(recruitment, said).confidence == pytest.approx(odds[0] / odds.sum())


def test_a_conditional_logit_finds_the_weights_its_data_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(4000, 5, 2)).astype(np.float32)
    scores = design @ np.array([1.5, -0.5]) + rng.gumbel(size=(4000, 5))
    right = scores.argmax(axis=1)[:, None] == np.arange(5)
    found = listwise.fit(design, np.ones((4000, 5), bool), right, mean=np.zeros(2), precision=np.ones(2))
    assert found == pytest.approx([1.5, -0.5], abs=0.1)


@pytest.fixture(scope="module")
def adaptive() -> AdaptiveRecruiter:
    equals = World(strength={name: {"all": 0.6} for name in "abcdefg"})
    recruiter = recruiting.fit("adaptive", equals.evidence(400))
    assert isinstance(recruiter, AdaptiveRecruiter)
    return recruiter


def adaptive_ask() -> Ask:
    world = World(strength={"a": {"all": 0.6}})
    return world.asks(world.questions(1, salt=3))[0]


def test_agreement_ends_the_asking_and_disagreement_does_not(adaptive: AdaptiveRecruiter) -> None:
    ask = adaptive_ask()
    (first,) = adaptive.recruit([ask], k=3, seeds=[0])
    assert len(first.recruits) == 2
    agreed = [Answered(expert=name, text="x", answer="B") for name in names(first)]
    assert adaptive.more(ask, first, agreed) == ()
    split = [Answered(expert=name, text="x", answer=letter) for name, letter in zip(names(first), "AB", strict=True)]
    (more,) = adaptive.more(ask, first, split)
    assert more.expert not in names(first)


def test_asking_ends_with_the_experts_or_with_the_most_a_pace_allows(adaptive: AdaptiveRecruiter) -> None:
    ask = adaptive_ask()
    (found,) = adaptive.recruit([ask], k=3, seeds=[0], experts=["a", "b", "c"])
    answered: list[Answered] = []
    for letter in "ABCDEF":
        answered = [
            *answered,
            *(
                Answered(expert=name, text="x", answer=letter)
                for name in names(found)
                if name not in {each.expert for each in answered}
            ),
        ]
        more = adaptive.more(ask, found, answered)
        if not more:
            break
        found = adaptive.joined(found, more)
    assert sorted(names(found)) == ["a", "b", "c"]


def test_the_mean_that_was_asked_for_is_kept_to(adaptive: AdaptiveRecruiter) -> None:
    world = World(strength={name: {"all": 0.6} for name in "abcdefg"})
    questions = world.questions(150, salt=5)
    asks, said = world.asks(questions), world.answers(questions, salt=5)
    calls = 0
    for ask, row, found in zip(asks, said, adaptive.recruit(asks, k=3, seeds=[0] * 150), strict=True):
        by_name = dict(zip("abcdefg", row, strict=True))
        while True:
            answered = [Answered(expert=name, text="x", answer=by_name[name]) for name in names(found)]
            more = adaptive.more(ask, found, answered)
            if not more:
                break
            found = adaptive.joined(found, more)
        calls += len(found.recruits)
    assert calls / 150 == pytest.approx(3, abs=0.3)
