"""The device's time, divided among those who were in its engines."""

import pytest

from workers.meter import Account, Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_moment_is_divided_evenly_and_the_charges_add_up_to_the_busy_time() -> None:
    clock = Clock()
    meter = Meter(clock)
    one, other = Account(meter, "one"), Account(meter, "other")
    clock.now = 5.0  # idle: nobody's
    first = one.begin()
    clock.now = 7.0
    second = other.begin()
    clock.now = 11.0
    first.end()
    clock.now = 12.0
    second.end()
    clock.now = 20.0
    charges = [share.as_fields()["device_s"] for share in (first, second)]
    assert charges == [pytest.approx(4.0), pytest.approx(3.0)]
    assert meter.busy_s() == pytest.approx(sum(charges)) == pytest.approx(7.0)
    assert [one.busy_s, other.busy_s] == [pytest.approx(4.0), pytest.approx(3.0)]


def test_time_in_a_full_batch_is_told_apart() -> None:
    clock = Clock()
    meter = Meter(clock, full=2)
    one, other = Account(meter, "one"), Account(meter, "other")
    for seconds, account in ((1.0, one), (2.0, other), (4.0, one)):
        account.begin()
        clock.now += seconds
    # Alone for 1 s, beside another model for 2 s, two of three for 4 s.
    assert one.busy_s == pytest.approx(1.0 + 2.0 / 2 + 4.0 * 2 / 3)
    assert one.full_s == pytest.approx(4.0 * 2 / 3)
    assert other.full_s == 0.0


def test_a_charge_ends_once() -> None:
    clock = Clock()
    share = Account(Meter(clock), "a").begin(load_s=2.0)
    clock.now = 1.0
    share.end()
    clock.now = 9.0
    share.end()
    assert share.as_fields() == {"device_s": 1.0, "load_s": 2.0}


def test_a_remote_model_takes_no_device_time() -> None:
    clock = Clock()
    account = Account(Meter(clock), "remote", has_device=False)
    share = account.begin()
    clock.now = 3.0
    share.end()
    assert share.as_fields()["device_s"] == 0.0
    assert account.busy_s == 3.0


def test_a_load_is_paid_once() -> None:
    account = Account(Meter(), "a")
    account.owe(3.0)
    assert (account.pay_load(), account.pay_load()) == (3.0, 0.0)
