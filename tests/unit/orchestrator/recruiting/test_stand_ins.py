"""Who is recruited in place of experts whose models cannot be loaded, and what votes are worth then."""

from dataclasses import replace

import pytest

from orchestrator import recruiting
from orchestrator.recruiting.limits import Cost, Limits
from orchestrator.recruiting.stand_ins import stand_ins
from orchestrator.recruiting.values import Recruit, Recruiter, Recruitment
from tests.unit.orchestrator.made_up import World

WORLD = World(strength={name: {"all": 0.45 + 0.05 * place} for place, name in enumerate("abcd")}, twins={"twin": "d"})
EVIDENCE = WORLD.evidence(200)
(ASK,) = WORLD.asks(WORLD.questions(1, salt=1))
FITTED = {name: recruiting.fit(name, EVIDENCE) for name in recruiting.STRATEGIES}


def recruited(recruiter: Recruiter, *experts: str) -> Recruitment:
    (found,) = recruiter.recruit([ASK], k=len(experts), seeds=[3], experts=experts)
    return found


def others(recruiter: Recruiter, first: Recruitment, *missing: str, left: Limits | None = None) -> tuple[Recruit, ...]:
    first = replace(first, left=left)
    asked = {each.expert for each in first.recruits}
    return stand_ins(recruiter, ASK, first, missing=missing, asked=asked, experts=[*WORLD.experts[1:], "a"], seed=3)


def names(recruits: tuple[Recruit, ...]) -> list[str]:
    return [each.expert for each in recruits]


@pytest.mark.parametrize("strategy", FITTED)
def test_one_stands_in_for_each_who_is_missing_and_nobody_is_asked_twice(strategy: str) -> None:
    recruiter = FITTED[strategy]
    first = recruited(recruiter, "a", "b")
    found = others(recruiter, first, "a")
    assert found == others(recruiter, first, "a")
    (one,) = found
    assert one.expert in {"c", "d", "twin"}
    assert one.why.endswith("instead of a: its model cannot be loaded")
    both = others(recruiter, first, "a", "b")
    assert len({*names(both), "a", "b"}) == 4
    assert both[0].why.endswith("instead of a, b: their models cannot be loaded")


@pytest.mark.parametrize("strategy", sorted({*FITTED} - {"adaptive"}))  # which asks fewer at first
def test_who_is_left_is_all_that_can_be_had(strategy: str) -> None:
    recruiter = FITTED[strategy]
    assert names(others(recruiter, recruited(recruiter, "a", "b", "c", "d"), "a", "b")) == ["twin"]
    assert others(recruiter, recruited(recruiter, *WORLD.experts), "a") == ()


def test_all_who_are_left_stand_in_as_often_as_each_other_at_random() -> None:
    recruiter = FITTED["random"]
    counts = dict.fromkeys(WORLD.experts, 0)
    for seed in range(600):
        (first,) = recruiter.recruit([ASK], k=1, seeds=[seed])
        (gone,) = names(first.recruits)
        if gone == "a":
            asked, able = {"a"}, WORLD.experts
            (one,) = stand_ins(recruiter, ASK, first, missing=["a"], asked=asked, experts=able, seed=seed)
            counts[one.expert] += 1
    assert counts["a"] == 0
    assert min(counts[name] for name in WORLD.experts[1:]) > 0.15 * sum(counts.values())


@pytest.mark.parametrize("strategy", ["posterior", "adaptive", "paper"])
def test_votes_weigh_as_if_all_had_been_recruited_so_at_first(strategy: str) -> None:
    recruiter = FITTED[strategy]
    first = recruited(recruiter, "a", "d")
    (one,) = others(recruiter, first, "d")
    joined = recruiter.joined(first, [one], without=["d"])
    at_once = {each.expert: each.weight for each in recruited(recruiter, "a", one.expert).recruits}
    assert {each.expert: each.weight for each in joined.recruits} == pytest.approx(at_once, abs=1e-5)


def test_who_is_out_of_an_adaptive_recruitment_is_not_wanted_again() -> None:
    recruiter = FITTED["adaptive"]
    (first,) = recruiter.recruit([ASK], k=3, seeds=[3])
    gone = first.recruits[0].expert
    joined = recruiter.joined(first, others(recruiter, first, gone), without=[gone])
    assert set(joined.among) == {*WORLD.experts} - {gone}
    assert gone not in names(recruiter.more(ASK, joined, []))


@pytest.mark.parametrize("strategy", ["best_single", "posterior"])
def test_beside_others_only_whom_the_budget_affords_stands_in(strategy: str) -> None:
    recruiter = FITTED[strategy]
    costs = {name: Cost(tokens=float(10 * (place + 1))) for place, name in enumerate(WORLD.experts)}
    first = recruited(recruiter, "a", "b")
    assert names(others(recruiter, first, "b", left=Limits(costs=costs, tokens=30))) == ["c"]
    assert others(recruiter, first, "b", left=Limits(costs=costs, tokens=29)) == ()
    alone = others(recruiter, recruited(recruiter, "b"), "b", left=Limits(costs=costs, tokens=5))
    assert names(alone) == ["a"]
    assert alone[0].tokens == 10
