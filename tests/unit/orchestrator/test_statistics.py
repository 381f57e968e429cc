"""Intervals, against values computed elsewhere and against their own definition."""

import numpy as np
import pytest

from orchestrator import statistics


def test_wilson_agrees_with_the_textbook() -> None:
    found = statistics.wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)])
def test_wilson_stays_within_bounds(right: int, n: int, low: float, high: float) -> None:
    found = statistics.wilson(right, n)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_nothing_has_no_interval() -> None:
    assert statistics.wilson(0, 0) is None
    assert statistics.bootstrap([], seed=0) is None


def test_the_bootstrap_is_repeatable_and_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, size=2000)
    found, again = statistics.bootstrap(values, seed=7), statistics.bootstrap(values, seed=7)
    assert found == again
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)


def test_the_bootstrap_of_many_lines_is_drawn_in_blocks() -> None:
    found = statistics.bootstrap([1.0, 0.0] * 5000, seed=0)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 100, abs=0.002)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 6, 0.125), (6, 1, 0.125), (0, 10, 2 / 1024), (400, 500, 0.000963)],
)
def test_mcnemar_is_the_two_sided_binomial_test(only_first: int, only_second: int, p_value: float) -> None:
    assert statistics.mcnemar(only_first, only_second) == pytest.approx(p_value, rel=0.01)
