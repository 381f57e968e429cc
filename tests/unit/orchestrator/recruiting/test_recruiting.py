from collections import Counter

import numpy as np
import pytest

from orchestrator import recruiting
from orchestrator.recruiting.values import Ask, NoExperts, Recruitment
from skills.evidence import Evidence, Floats
from skills.question import Question

DIMENSIONS = 8
ALGEBRA, POETRY, LAW = np.eye(DIMENSIONS, dtype=np.float32)[:3]
UNKNOWN = np.eye(DIMENSIONS, dtype=np.float32)[7]


def evidence(outcomes: dict[str, dict[str, str]], *, with_skills: bool = True) -> Evidence:
    """`outcomes`: skill -> expert -> a mark per question: + right, - wrong, . never asked."""
    axes = dict(zip(("algebra", "poetry", "law"), (ALGEBRA, POETRY, LAW), strict=True))
    experts = tuple(next(iter(outcomes.values())))
    marks = {"+": 1.0, "-": 0.0, ".": np.nan}
    questions, embeddings, correct = [], [], []
    for skill, by_expert in outcomes.items():
        for n, row in enumerate(zip(*by_expert.values(), strict=True)):
            own = {"skills": (skill,)} if with_skills else {"category": skill}
            questions.append(Question(id=f"{skill}-{n}", text="?", answer="x", **own))
            embeddings.append(axes[skill])
            correct.append([marks[mark] for mark in row])
    names = tuple(outcomes) if with_skills else ()
    return Evidence(
        experts=experts,
        questions=tuple(questions),
        embeddings=np.stack(embeddings),
        correct=np.array(correct, np.float32),
        skill_names=names,
        skill_embeddings=np.stack([axes[name] for name in names]) if names else None,
    )


def ask(*skills: str, embedding: Floats = UNKNOWN, skill_embeddings: Floats | None = None) -> Ask:
    return Ask(text="?", embedding=embedding, skills=skills, skill_embeddings=skill_embeddings)


def shares(recruitments: list[Recruitment]) -> Counter[str]:
    return Counter(recruit.expert for recruitment in recruitments for recruit in recruitment.recruits)


SPLIT = evidence(
    {
        "algebra": {"mathy": "+++++++-", "poet": "--------", "mid": "++++----"},
        "poetry": {"mathy": "--------", "poet": "+++++++-", "mid": "++++----"},
    }
)


@pytest.mark.parametrize(("skill", "best"), [("algebra", "mathy"), ("poetry", "poet")])
def test_paper_recruits_by_the_skills_a_question_needs(skill: str, best: str) -> None:
    found = recruiting.fit("paper", SPLIT).recruit([ask(skill)] * 200, k=1, seeds=range(200))
    assert shares(found).most_common(1)[0][0] == best


def test_three_right_of_three_beats_twenty_of_thirty_four() -> None:
    counts = {"rare": "+++" + "." * 31, "frequent": "+" * 20 + "-" * 14}
    recruiter = recruiting.fit("paper", evidence({"algebra": counts}))
    (both,) = recruiter.recruit([ask("algebra")], k=2, seeds=[0])
    strength = {recruit.expert: recruit.suitability for recruit in both.recruits}
    assert strength["rare"] > strength["frequent"]


def test_one_lucky_try_does_not_beat_a_long_record() -> None:
    counts = {"lucky": "+" + "." * 33, "proven": "+" * 31 + "-" * 3}
    (both,) = recruiting.fit("paper", evidence({"algebra": counts})).recruit([ask("algebra")], k=2, seeds=[0])
    strength = {recruit.expert: recruit.suitability for recruit in both.recruits}
    assert strength["proven"] > strength["lucky"]


def test_an_off_domain_question_is_matched_to_nothing() -> None:
    recruiter = recruiting.fit("paper", SPLIT)
    (found,) = recruiter.recruit([ask("cookery", skill_embeddings=UNKNOWN[None])], k=2, seeds=[0])
    assert found.off_domain
    assert found.skills == ()
    assert found.note
    assert len(found.recruits) == 2


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_nobody_is_recruited_twice(strategy: str) -> None:
    found = recruiting.fit(strategy, SPLIT).recruit([ask("algebra")] * 50, k=3, seeds=range(50))
    for recruitment in found:
        first = {"adaptive": 2}.get(strategy, 3)
        assert len({recruit.expert for recruit in recruitment.recruits}) == len(recruitment.recruits) == first


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_the_same_seed_recruits_the_same_experts_alone_or_in_a_batch(strategy: str) -> None:
    recruiter = recruiting.fit(strategy, SPLIT)
    asks = [ask("algebra"), ask("poetry"), ask(embedding=POETRY), ask()]
    together = recruiter.recruit(asks, k=2, seeds=[5, -6, 2**70, 8])
    alone = [recruiter.recruit([one], k=2, seeds=[seed])[0] for one, seed in zip(asks, [5, -6, 2**70, 8], strict=True)]
    assert together == alone
    assert together == recruiter.recruit(asks, k=2, seeds=[5, -6, 2**70, 8])


def test_other_seeds_draw_other_experts() -> None:
    found = recruiting.fit("paper", SPLIT).recruit([ask("algebra", "poetry")] * 100, k=1, seeds=range(100))
    assert len(shares(found)) > 1


def test_a_keyword_maps_to_the_nearest_skill_and_says_how_near() -> None:
    near = (0.9 * ALGEBRA + np.sqrt(1 - 0.81) * UNKNOWN).astype(np.float32)
    (found,) = recruiting.fit("paper", SPLIT).recruit([ask("equations", skill_embeddings=near[None])], k=1, seeds=[0])
    (skill,) = found.skills
    assert (skill.skill, skill.keyword) == ("algebra", "equations")
    assert skill.similarity == pytest.approx(0.9, abs=1e-5)


def test_without_keywords_the_question_itself_is_matched() -> None:
    (found,) = recruiting.fit("paper", SPLIT).recruit([ask(embedding=POETRY)], k=1, seeds=[0])
    assert [skill.skill for skill in found.skills] == ["poetry"]
    assert found.note == ""


def test_unknown_keywords_give_way_to_the_question_itself_and_it_is_said() -> None:
    asked = ask("cookery", embedding=POETRY, skill_embeddings=UNKNOWN[None])
    (found,) = recruiting.fit("paper", SPLIT).recruit([asked], k=1, seeds=[0])
    assert [skill.skill for skill in found.skills] == ["poetry"]
    assert found.note


def test_evidence_without_skills_is_matched_by_category() -> None:
    bare = evidence({"algebra": {"a": "++++", "b": "----"}, "law": {"a": "----", "b": "++++"}}, with_skills=False)
    found = recruiting.fit("paper", bare).recruit([ask(embedding=LAW)] * 50, k=1, seeds=range(50))
    assert shares(found).most_common(1)[0][0] == "b"


def test_an_expert_that_is_unsuitable_is_drawn_only_after_all_that_are_suitable() -> None:
    found = recruiting.fit("paper", SPLIT).recruit([ask("algebra")] * 100, k=2, seeds=range(100))
    assert shares(found)["poet"] == 0


def test_when_nobody_is_suitable_the_least_bad_is_preferred() -> None:
    hard = evidence({"algebra": {"bad": "+" * 6 + "-" * 18, "worse": "+" * 1 + "-" * 23}})
    found = recruiting.fit("paper", hard).recruit([ask("algebra")] * 200, k=1, seeds=range(200))
    assert shares(found)["bad"] > 150


def test_every_recruit_has_a_positive_weight_and_a_reason() -> None:
    found = recruiting.fit("paper", SPLIT).recruit([ask("algebra"), ask()], k=3, seeds=[1, 2])
    for recruitment in found:
        assert all(recruit.weight > 0 for recruit in recruitment.recruits)
    assert found[0].recruits[0].why.startswith("algebra ")
    assert "overall 0." in found[1].recruits[0].why


def test_random_recruits_everyone_alike() -> None:
    found = recruiting.fit("random", SPLIT).recruit([ask("algebra")] * 600, k=1, seeds=range(600))
    assert min(shares(found)[name] for name in SPLIT.experts) > 150


def test_best_single_is_the_highest_overall_accuracy_shrunk() -> None:
    record = evidence({"law": {"lucky": "+" + "." * 29, "proven": "+" * 27 + "---", "weak": "+" * 9 + "-" * 21}})
    (found,) = recruiting.fit("best_single", record).recruit([ask()], k=1, seeds=[0])
    assert found.recruits[0].expert == "proven"
    assert found.recruits[0].why == "overall 0.90"


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_only_the_experts_asked_for_are_recruited(strategy: str) -> None:
    recruiter = recruiting.fit(strategy, SPLIT)
    (found,) = recruiter.recruit([ask("algebra")], k=5, seeds=[0], experts=["poet", "gone"])
    assert [recruit.expert for recruit in found.recruits] == ["poet"]
    with pytest.raises(NoExperts, match="gone"):
        recruiter.recruit([ask("algebra")], k=1, seeds=[0], experts=["gone"])
    assert recruiter.recruit([], k=1, seeds=[]) == []
    with pytest.raises(ValueError, match="k must be"):
        recruiter.recruit([ask()], k=0, seeds=[0])


def empty(experts: tuple[str, ...]) -> Evidence:
    return Evidence(
        experts=experts,
        questions=(),
        embeddings=np.zeros((0, DIMENSIONS), np.float32),
        correct=np.zeros((0, len(experts)), np.float32),
    )


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_a_pool_without_profiles_still_recruits_and_one_without_experts_says_so(strategy: str) -> None:
    (found,) = recruiting.fit(strategy, empty(("a", "b"))).recruit([ask("algebra")], k=2, seeds=[0])
    assert len(found.recruits) == 2
    with pytest.raises(NoExperts, match="no expert is live"):
        recruiting.fit(strategy, empty(())).recruit([ask()], k=1, seeds=[0])


def test_an_unknown_strategy_is_named_beside_those_there_are() -> None:
    with pytest.raises(recruiting.UnknownStrategy, match="best_single"):
        recruiting.fit("psychic", SPLIT)
