"""A report and a comparison as pages."""

import copy
from typing import Any

from api import comparison_page, report_page


def _estimate(value: float, half: float = 0.05, n: int = 200) -> dict[str, Any]:
    return {"value": value, "ci95": [value - half, value + half], "n": n}


def _expert(value: float, recruited: int) -> dict[str, Any]:
    return {
        "calls": 200,
        "recruited": recruited,
        "accuracy": _estimate(value),
        "accuracy_when_recruited": _estimate(value + 0.08, n=recruited),
        "unreadable": 3,
        "cut_off": 1,
        "failed": 0,
        "late": 0,
        "prompt_tokens": 31_200,
        "completion_tokens": 18_450,
    }


STAGE = {"calls": 812, "failed": 2, "retried": 3, "lost": 64, "prompt_tokens": 126_000, "completion_tokens": 74_000}
REPORT: dict[str, Any] = {
    "run": "bench-0123456789ab",
    "kind": "benchmark",
    "name": "science <questions>",
    "status": "completed",
    "muster": "0.1.0",
    "warnings": ["7 of its 200 questions <stand> in the question set"],
    "lines": {"total": 200, "done": 200, "failed": 1},
    "settings": {"k": 3, "strategy": "posterior", "fusion": "auto", "seed": 0, "aggregator": None},
    "versions": {"pool": "ab12", "experts": {"ada": 1, "bob": 2}, "question_set": "muster-basics@1"},
    "seconds": 412.3,
    "stages": {"generate": {**STAGE, "engine_s": 2204.5}, "fuse": {**STAGE, "calls": 31, "engine_s": 80.1}},
    "units": {"calls": 843, "failed": 2, "retried": 3, "lost": 64},
    "loads": {"made": 4, "planned": 4, "seconds": 38.2, "per_model": {"hub:a/b": {"loads": 2, "seconds": 9.0}}},
    "accuracy": _estimate(0.745, 0.06),
    "per_category": {
        "algebra": _estimate(0.81, 0.1, 50),
        "chemistry": _estimate(0.62, 0.13, 50),
        "history": _estimate(0.79, 0.11, 50),
        "physics": _estimate(0.76, 0.12, 50),
    },
    "per_expert": {"ada": _expert(0.66, 180), "bob": _expert(0.58, 140), "cyd": _expert(0.49, 80)},
    "baselines": {
        "lines": 200,
        "note": "every expert answered every line",
        "muster": _estimate(0.745, 0.06),
        "best_single": {"expert": "ada", **_estimate(0.66, 0.065), "chosen_on": "profile"},
        "best_single_hindsight": {"expert": "ada", **_estimate(0.66, 0.065), "chosen_on": "these lines"},
        "random": _estimate(0.63, 0.06),
        "majority_all": _estimate(0.69, 0.06),
        "oracle": _estimate(0.86, 0.05),
        "versus": {
            "best_single": _estimate(0.085, 0.045),
            "random": _estimate(0.115, 0.05),
            "majority_all": _estimate(0.055, 0.06),
        },
    },
    "fusion": {"methods": {"vote": 170, "aggregate": 30}, "gain": _estimate(0.035, 0.04)},
}


def test_a_page_shows_accuracy_baselines_differences_and_costs() -> None:
    text = report_page.page(REPORT)
    for words in (
        "74.5 %",
        "To be careful about",
        "7 of its 200 questions &lt;stand&gt;",
        "68.5 to 80.5",
        "+8.5 pt",
        "better",
        "cannot be told apart",
        "oracle",
        "6 min 52 s",
    ):
        assert words in text, words
    assert "science &lt;questions&gt;" in text
    assert "<questions>" not in text


def test_a_run_without_gold_answers_or_lines_has_a_page_too() -> None:
    bare = copy.deepcopy(REPORT)
    for name in ("accuracy", "per_category", "baselines", "fusion"):
        del bare[name]
    bare["per_expert"] = {"ada": _estimate(0.5)}
    text = report_page.page({**bare, "kind": "aggregator"})
    assert "Loads by model" in text
    assert "Beside its baselines" not in text


def _compared(value: float) -> dict[str, Any]:
    return {
        "accuracy": {"first": _estimate(0.66), "second": _estimate(0.66 + value)},
        "difference": _estimate(value),
        "mcnemar": {"both_right": 120, "only_first_right": 8, "only_second_right": 25, "p_value": 0.0047},
    }


def test_a_comparison_says_what_its_test_says() -> None:
    run = {
        "run": "bench-0123456789ab",
        "name": "one",
        "settings": {"k": 3, "strategy": "paper"},
        "versions": {"pool": "ab"},
        "seconds": 9.0,
        "calls": 600,
        "tokens": 120_000,
        "loads": 4,
    }
    compared = {
        "first": run,
        "second": {**run, "name": "two"},
        "lines": {"compared": 200, "only_in_first": 0, "only_in_second": 3},
        **_compared(0.085),
        "per_category": {"algebra": _compared(0.1), "history": _compared(-0.02)},
    }
    text = comparison_page.page(compared)
    for words in ("p = 0.0047", "+8.5 pt", "25 : 8", "−2.0 pt", "120\u202f000"):
        assert words in text, words
