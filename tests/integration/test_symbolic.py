import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.answers import symbolic


@pytest.fixture(scope="module")
def judge() -> Iterator[symbolic.Judge]:
    judge = symbolic.Judge(verdict_s=1)
    yield judge
    judge.close()


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", True),
        ("x=3", "3", True),
        ("(1,2)", "(2,1)", False),
        ("x^2", "x^3", False),
        ("}{\\frac", "\\frac{", False),
    ],
)
def test_formulas_are_compared_by_their_meaning(judge: symbolic.Judge, gold: str, answer: str, verdict: bool) -> None:
    assert judge.equivalent(gold, answer) is verdict


@pytest.mark.timeout(60)
def test_a_formula_that_cannot_be_evaluated_costs_seconds_and_harms_no_later_one(judge: symbolic.Judge) -> None:
    start = time.monotonic()
    assert not judge.equivalent("100000000!", "1")
    assert time.monotonic() - start < 50
    assert judge.equivalent("2x", "x+x")


def test_it_judges_from_any_thread() -> None:
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.append(symbolic.equivalent("2(x+1)", "2x+2")))
    thread.start()
    thread.join()
    assert verdicts == [True]
