"""Recruiting within a budget: which sets are affordable, and what is done where none is."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from orchestrator import recruiting
from orchestrator.recruiting import limits
from orchestrator.recruiting.adaptive import AdaptiveRecruiter
from orchestrator.recruiting.limits import Cost, Limits
from orchestrator.recruiting.values import Answered, Recruitment
from tests.unit.orchestrator.made_up import SPECIALISTS, World

ASKS = SPECIALISTS.asks(SPECIALISTS.questions(20, salt=1))
SEEDS = range(len(ASKS))
LEARNT = {name: recruiting.fit(name, SPECIALISTS.evidence(200)) for name in recruiting.STRATEGIES}
EVERYBODY = ("mathy", "poet", "solid", "weak")


def tokens(**each: float) -> Mapping[str, Cost]:
    return {name: Cost(tokens=each.get(name, 100.0)) for name in EVERYBODY}


def seconds(**each: Cost) -> Mapping[str, Cost]:
    return {name: each.get(name, Cost(answer_s=1.0)) for name in EVERYBODY}


def names(recruitment: Recruitment) -> list[str]:
    return [recruit.expert for recruit in recruitment.recruits]


def recruit(strategy: str, limits: Limits | None, k: int = 3) -> list[Recruitment]:
    return LEARNT[strategy].recruit(ASKS, k=k, seeds=SEEDS, limits=limits)


def test_loads_on_one_device_follow_one_another_and_different_devices_go_side_by_side() -> None:
    each = {
        "here": Cost(answer_s=5, device="a"),
        "one": Cost(answer_s=2, load_s=10, model="m", device="a"),
        "same": Cost(answer_s=3, load_s=10, model="m", device="a"),
        "two": Cost(answer_s=2, load_s=20, model="n", device="a"),
        "away": Cost(answer_s=2, load_s=20, model="o", device="b"),
    }
    limits = Limits(costs=each)

    def time(*experts: str) -> float:
        return float(limits.seconds_of(experts, np.ones((1, len(experts)), bool))[0])

    assert time("here") == 5
    assert time("one") == 12
    assert time("one", "same") == 13
    assert time("one", "two") == 34
    assert time("one", "away") == 22
    assert time("here", "one") == 17


def test_without_limits_and_with_limits_that_nobody_reaches_the_same_are_recruited() -> None:
    ample = Limits(costs=tokens(), tokens=10_000, seconds=1_000)
    for strategy in recruiting.STRATEGIES:
        free, bound = recruit(strategy, None), recruit(strategy, ample)
        told = [
            dataclasses.replace(
                each,
                left=None,
                recruits=tuple(dataclasses.replace(one, tokens=None, seconds=None) for one in each.recruits),
            )
            for each in bound
        ]
        assert told == free, strategy


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_no_set_exceeds_its_tokens(strategy: str) -> None:
    limits = Limits(costs=tokens(mathy=250, poet=150), tokens=300)
    for found in recruit(strategy, limits):
        assert found.recruits
        assert limits.affords(names(found))
        assert found.left is not None
        assert found.left.tokens == pytest.approx(300 - sum(each.tokens or 0 for each in found.recruits))


@pytest.mark.parametrize("strategy", recruiting.STRATEGIES)
def test_where_nobody_is_affordable_the_cheapest_is_asked_alone_and_it_is_said(strategy: str) -> None:
    for found in recruit(strategy, Limits(costs=tokens(solid=40), tokens=20)):
        assert names(found) == ["solid"]
        assert "no expert is within 20 tokens: the cheapest was asked (about 40 tokens)" in found.note


def test_an_expert_that_would_have_to_be_loaded_is_replaced_and_the_reason_told() -> None:
    limits = Limits(costs=seconds(mathy=Cost(answer_s=1, load_s=39, model="m", device="gpu")), seconds=10)
    usual = recruit("posterior", None, k=1)
    for before, found in zip(usual, recruit("posterior", limits, k=1), strict=True):
        assert names(found) != ["mathy"]
        if names(before) == ["mathy"]:
            assert "within 10 s, so without mathy (not loaded: 40 s)" in found.note
            assert "in place of mathy (not loaded: 40 s)" in found.recruits[0].why
        else:
            assert found.note == before.note
            assert found.recruits[0].why == before.recruits[0].why


def test_one_good_expert_is_worth_more_than_two_bad_ones_of_the_same_price() -> None:
    world = World(strength={"good": {"all": 0.9}, "bad": {"all": 0.3}, "poor": {"all": 0.3}})
    recruiter = recruiting.fit("posterior", world.evidence(300))
    asks = world.asks(world.questions(10, salt=1))
    each = {"good": Cost(tokens=200), "bad": Cost(tokens=100), "poor": Cost(tokens=100)}
    for found in recruiter.recruit(asks, k=3, seeds=range(10), limits=Limits(costs=each, tokens=200)):
        assert names(found) == ["good"]


def test_three_fair_experts_are_worth_more_than_a_better_one_of_the_same_price() -> None:
    world = World(strength={"good": {"all": 0.62}, **{name: {"all": 0.6} for name in "abc"}})
    recruiter = recruiting.fit("posterior", world.evidence(600))
    asks = world.asks(world.questions(10, salt=1))
    each = {"good": Cost(tokens=300), **{name: Cost(tokens=100) for name in "abc"}}
    for found in recruiter.recruit(asks, k=3, seeds=range(10), limits=Limits(costs=each, tokens=300)):
        assert len(found.recruits) == 3


def test_a_large_pool_still_has_cheap_sets_to_choose_from() -> None:
    """Too many councils to look at all: the affordable ones are not lost among the better ones."""
    strength = {f"e{place}": {"all": 0.3 + 0.02 * place} for place in range(20)}
    world = World(strength=strength)
    recruiter = recruiting.fit("posterior", world.evidence(100))
    asks = world.asks(world.questions(5, salt=1))
    each = {name: Cost(answer_s=1.0 if place < 4 else 60.0) for place, name in enumerate(strength)}
    for found in recruiter.recruit(asks, k=3, seeds=range(5), limits=Limits(costs=each, seconds=10)):
        assert len(found.recruits) > 1
        assert set(names(found)) <= {"e0", "e1", "e2", "e3"}


def test_more_is_asked_only_of_whom_what_is_left_can_pay() -> None:
    adaptive = LEARNT["adaptive"]
    limits = Limits(costs=tokens(mathy=150, poet=150, solid=100, weak=400), tokens=400)
    for ask, found in zip(ASKS, adaptive.recruit(ASKS, k=3, seeds=SEEDS, limits=limits), strict=True):
        recruitment = found
        split = [Answered(expert=name, text="said", answer=f"{name}'s") for name in names(recruitment)]
        while more := adaptive.more(ask, recruitment, split):
            recruitment = adaptive.joined(recruitment, more)
            split += [Answered(expert=one.expert, text="said", answer=f"{one.expert}'s") for one in more]
        assert limits.affords(names(recruitment))
        assert "weak" not in names(recruitment)


def test_a_mean_of_tokens_is_kept_on_the_profile_questions() -> None:
    adaptive = LEARNT["adaptive"]
    assert isinstance(adaptive, AdaptiveRecruiter)
    each = tokens(mathy=200)
    tight, wide = adaptive.thrift(150, each), adaptive.thrift(300, each)
    assert tight < wide


def test_expected_tokens_are_the_means_shrunk_to_the_pools() -> None:
    evidence = SPECIALISTS.evidence(8)
    measured = np.full((8, 4), 100.0, np.float32)
    measured[:, 0] = 20.0
    measured[:, 3] = np.nan
    measured[1:, 2] = np.nan
    found = limits.completion_tokens(dataclasses.replace(evidence, tokens=measured))
    pool = (8 * 20 + 9 * 100) / 17
    assert found == pytest.approx([(160 + 8 * pool) / 16, (800 + 8 * pool) / 16, (100 + 8 * pool) / 9, pool])
    assert limits.completion_tokens(evidence).tolist() == [limits.UNKNOWN_TOKENS] * 4
