import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fusion import synthesis
from orchestrator.fusion.synthesis import Expected, Synthesis, Trial


def trial(confidence: float, *, vote: bool, merged: bool, first: bool | None = None, is_choice: bool = True) -> Trial:
    return Trial(
        strategy="s",
        confidence=confidence,
        is_choice=is_choice,
        vote_right=vote,
        first_right=vote if first is None else first,
        right=merged,
    )


def tried(trials: list[Trial]) -> Synthesis:
    return synthesis.learn({"agg": trials})


def expected(learnt: Synthesis, confidence: float, *, is_choice: bool = True) -> Expected:
    merger = learnt.merger(aggregator="agg", strategy="s")
    assert merger is not None
    return merger.expected(confidence, is_choice)


UNSURE = [trial(0.3, vote=n % 4 == 0, merged=n % 4 != 3) for n in range(24)]
"""Votes that are right in 1 of 4, merging in 3 of 4."""
SURE = [trial(0.95, vote=True, merged=n % 6 != 0) for n in range(24)]
"""Votes that are right, and merging that spoils every sixth."""


def test_a_gain_at_low_confidence_is_one_there_and_nowhere_else() -> None:
    learnt = tried([*UNSURE, *SURE])
    assert expected(learnt, 0.3).is_clear
    assert not expected(learnt, 0.95).is_clear
    assert expected(learnt, 0.95).over_vote.mean < 0 < 0.2 < expected(learnt, 0.3).over_vote.mean
    assert learnt.gaining("s") == ("agg",)


def test_an_aggregator_that_loses_gains_nowhere() -> None:
    learnt = tried([trial(n / 24, vote=True, merged=n % 4 != 0) for n in range(24)])
    assert learnt.gaining("s") == ()
    assert expected(learnt, 0.5).over_vote.is_loss


def test_losing_where_votes_are_sure_is_no_gain_where_they_are_not() -> None:
    """A straight line through such trials would promise one."""
    agreeing = [trial(n / 100, vote=True, merged=True) for n in range(0, 50, 2)]
    spoilt = [trial(0.5 + n / 100, vote=True, merged=n % 6 != 0) for n in range(0, 50, 2)]
    assert tried([*agreeing, *spoilt]).gaining("s") == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_trials_prove_little(count: int) -> None:
    learnt = tried([trial(0.4, vote=False, merged=True)] * count)
    assert learnt.gaining("s") == ()
    assert 0 < expected(learnt, 0.4).over_vote.mean < 0.15


def test_what_gains_over_the_vote_must_gain_over_the_first_recruit_too() -> None:
    learnt = tried([trial(0.4, vote=False, merged=n % 2 == 0, first=True) for n in range(24)])
    assert expected(learnt, 0.4).over_vote.is_clear
    assert not expected(learnt, 0.4).is_clear


def test_choices_tell_less_about_free_form_questions() -> None:
    learnt = tried(UNSURE)
    choice, free = expected(learnt, 0.3), expected(learnt, 0.3, is_choice=False)
    assert free.over_vote.mean == pytest.approx(choice.over_vote.mean / 2)
    assert free.over_vote.error > choice.over_vote.error


def test_nothing_is_known_of_others_and_of_other_strategies() -> None:
    learnt = tried(UNSURE)
    assert learnt.merger(aggregator="other", strategy="s") is None
    assert learnt.merger(aggregator="agg", strategy="paper") is None
    assert learnt.merger(aggregator=None, strategy="s") is None
    assert learnt.gaining("paper") == ()


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60),
    st.floats(0, 1),
    st.booleans(),
)
def test_gains_are_finite_and_no_surer_than_the_prior_without_trials(
    drawn: list[tuple[float, bool, bool, bool]], confidence: float, is_choice: bool
) -> None:
    trials = [trial(sure, vote=vote, merged=merged, is_choice=kind) for sure, vote, merged, kind in drawn]
    found = expected(tried(trials), confidence, is_choice=is_choice)
    assert np.isfinite(found.over_vote.mean)
    assert 0 <= found.over_vote.error <= synthesis.GAIN_SPREAD + 1e-9
