"""The arithmetic of a benchmark's report."""

import dataclasses

from orchestrator.runs import report
from orchestrator.runs.pinned import Baselines, Pinned
from orchestrator.runs.report import Line, Told

PINNED = Pinned(
    lines=4,
    k=1,
    seed=1,
    pool={"experts": {"ada": 1, "bob": 2}},
    best_single="ada",
    baselines=Baselines(lines=4, calls=4),
)


def answer(letter: str, *, right: bool, recruited: bool = True) -> Told:
    return Told(
        answer=letter,
        correct=right,
        finish_reason="stop",
        recruited=recruited,
        prompt_tokens=10,
        completion_tokens=2,
    )


def line(position: int, *, correct: bool, ada: bool, bob: bool | None, first: str = "ada") -> Line:
    answers = {"ada": answer("A", right=ada, recruited=first == "ada")}
    if bob is not None:
        answers["bob"] = answer("B", right=bob, recruited=first == "bob")
    return Line(
        position=position, category="x", correct=correct, method="vote", first=first,
        answers=answers,
    )  # fmt: skip


LINES = [
    line(0, correct=True, ada=True, bob=False),
    line(1, correct=True, ada=False, bob=True, first="bob"),
    line(2, correct=True, ada=False, bob=True, first="bob"),
    line(3, correct=False, ada=False, bob=False),
]


def test_baselines_are_counted_on_the_same_lines() -> None:
    found = report.compare(LINES, PINNED)
    assert found["muster"]["value"] == 0.75
    assert (found["best_single"]["expert"], found["best_single"]["value"]) == ("ada", 0.25)
    assert (found["best_single_hindsight"]["expert"], found["best_single_hindsight"]["value"]) == ("bob", 0.5)
    assert found["random"]["value"] == (0.5 + 0.5 + 0.5 + 0) / 4
    assert found["oracle"]["value"] == 0.75


def test_the_difference_to_the_best_single_expert_is_paired() -> None:
    versus = report.compare(LINES, PINNED)["versus"]["best_single"]
    assert (versus["value"], versus["n"]) == (0.5, 4)
    assert versus["ci95"][0] >= 0.0


def test_lines_that_not_everybody_answered_are_left_out_and_that_is_said() -> None:
    partly = [*LINES[:3], line(3, correct=False, ada=False, bob=None)]
    found = report.compare(partly, PINNED)
    assert (found["lines"], found["of"]) == (3, 4)
    assert "3 lines" in found["note"]
    assert found["best_single"]["n"] == 4


def test_each_expert_is_judged_as_a_recruit_and_on_all_it_was_asked() -> None:
    bob = report.per_expert(LINES)["bob"]
    assert (bob["calls"], bob["recruited"]) == (4, 2)
    assert bob["accuracy"]["value"] == 0.5
    assert bob["accuracy_when_recruited"]["value"] == 1.0
    assert bob["completion_tokens"] == 8


def test_the_fusion_meter_tells_each_method_beside_the_first_recruit_on_its_own_lines() -> None:
    merged = [
        dataclasses.replace(each, method="aggregate", gain=gain)
        for each, gain in zip(LINES[:2], (0.1, None), strict=True)
    ]
    meter = report.fusion_meter([*merged, *LINES[2:]], PINNED)
    assert meter["methods"] == {"aggregate": 2, "vote": 2}
    assert meter["per_method"]["aggregate"] == {
        "lines": 2,
        "accuracy": 1.0,
        "first_recruit": 1.0,
        "gain": 0.0,
        "gain_ci95": [0.0, 0.0],
        "expected_gain": 0.1,
    }
    assert meter["per_method"]["vote"]["expected_gain"] is None


def test_no_line_at_all_has_no_accuracy() -> None:
    found = report.compare([], PINNED)
    assert found["muster"] is None
    assert found["versus"]["best_single"] is None
