"""Baselines of one line."""

from orchestrator import baselines
from orchestrator.baselines import Judged

RIGHT, WRONG, OTHER = (
    Judged(answer="A", correct=True),
    Judged(answer="B", correct=False),
    Judged(answer="C", correct=False),
)
NOTHING = Judged(answer="", correct=False)


def test_the_commonest_answer_wins() -> None:
    assert baselines.plurality([RIGHT, RIGHT, WRONG]) == 1.0
    assert baselines.plurality([RIGHT, WRONG, WRONG]) == 0.0


def test_a_tie_counts_in_part() -> None:
    assert baselines.plurality([RIGHT, WRONG]) == 0.5
    assert baselines.plurality([RIGHT, WRONG, OTHER]) == 1 / 3


def test_right_answers_written_differently_are_the_same_answer() -> None:
    half = Judged(answer="1/2", correct=True)
    assert baselines.plurality([RIGHT, half, WRONG, OTHER]) == 1.0


def test_unreadable_answers_are_no_votes() -> None:
    assert baselines.plurality([NOTHING, NOTHING, RIGHT]) == 1.0
    assert baselines.plurality([NOTHING]) == 0.0


def test_one_random_recruit_is_as_good_as_the_average_expert() -> None:
    assert baselines.random_recruits([RIGHT, WRONG, WRONG, NOTHING], k=1, seed=0) == 0.25


def test_random_pairs_are_averaged_over_all_pairs() -> None:
    # right+wrong ties (1/2), twice; wrong+wrong loses.
    assert baselines.random_recruits([RIGHT, WRONG, WRONG], k=2, seed=0) == 1 / 3


def test_where_there_are_too_many_sets_a_seeded_part_of_them_is_drawn() -> None:
    many = [RIGHT, WRONG] * 8
    first, again = (baselines.random_recruits(many, k=5, seed=3) for _ in range(2))
    assert first == again
    assert 0.2 < first < 0.8


def test_k_larger_than_the_pool_is_the_whole_pool() -> None:
    assert baselines.random_recruits([RIGHT, RIGHT, WRONG], k=9, seed=0) == 1.0


def test_the_oracle_knows_when_anybody_does() -> None:
    assert baselines.oracle([WRONG, OTHER, RIGHT]) == 1.0
    assert baselines.oracle([WRONG, NOTHING]) == 0.0
