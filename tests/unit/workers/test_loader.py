"""Which sleeping engines make room for another."""

from workers.loader import who_must_go

AMPLE = 10_000


def test_a_sleeper_that_fits_ends_nobody() -> None:
    assert who_must_go({"a": 40}, 60, limit=100, available=AMPLE) == []


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    assert who_must_go({"a": 40, "b": 30, "c": 30}, 50, limit=100, available=AMPLE) == ["a", "b"]


def test_what_is_larger_than_the_bound_ends_nobody_and_does_not_sleep() -> None:
    assert who_must_go({"a": 40}, 101, limit=100, available=AMPLE) is None
    assert who_must_go({}, 1, limit=0, available=AMPLE) is None


def test_the_host_keeps_half_of_what_it_has_available() -> None:
    assert who_must_go({}, 60, limit=1000, available=100) is None
    assert who_must_go({"a": 30}, 60, limit=1000, available=100) == ["a"]
