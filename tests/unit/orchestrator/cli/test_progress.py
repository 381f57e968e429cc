"""A run's progress on a terminal."""

import io
from typing import Any

from rich.console import Console

from orchestrator.cli import progress

STATE: dict[str, Any] = {
    "run": "batch_1",
    "status": "in_progress",
    "lines": {"total": 200, "done": 50, "failed": 2, "correct": 0},
    "stages": {"generate": 149, "fuse": 1, "done": 50},
    "experts": {"ada": {"pending": 90, "sent": 8, "done": 100, "failed": 2}},
    "loads": {"made": 1, "seconds": 2.0, "planned": 2},
    "elapsed_s": 30.0,
    "units_per_s": 3.5,
    "lines_per_s": 1.7,
    "eta_s": 600.0,
}


def _drawn(state: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(progress.drawn(state))
    return out.getvalue()


def test_lines_stages_experts_rate_and_time_left_are_drawn() -> None:
    text = _drawn(STATE)
    for words in ("batch_1", "50/200 lines", "2 failed", "1.7 lines/s", "about 10 min left", "1 loads of 2 planned"):
        assert words in text, words
    assert "149 generate, 1 fuse, 50 done" in text
    assert text.splitlines()[-1].split()[-4:] == ["100", "8", "90", "2"]


def test_a_run_that_has_only_begun_is_drawn_too() -> None:
    bare = {"lines": {"total": 0, "done": 0, "failed": 0}, "stages": {}, "experts": {}, "eta_s": None}
    text = _drawn({**STATE, **bare, "status": "validating", "units_per_s": 0.0, "lines_per_s": 0.0})
    assert "validating" in text
    assert "left" not in text
