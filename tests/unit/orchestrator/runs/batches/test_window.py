"""Completion windows."""

import pytest

from orchestrator.runs.batches import window


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("30s", 30), ("5m", 300), ("30d", 2_592_000)])
def test_a_window_is_a_number_of_seconds_minutes_hours_or_days(text: str, seconds: int) -> None:
    assert window.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "0h", "-1h", "1.5h", "31d", "24 h", "24hours", "9999999999999s"])
def test_anything_else_is_none(text: str) -> None:
    assert window.seconds(text) is None
