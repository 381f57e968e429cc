"""What a replay showed: accuracy with intervals beside its baselines, by category, calibration, fusion gain. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from orchestrator import baselines, statistics
from orchestrator.baselines import Judged
from orchestrator.replay import published
from orchestrator.replay.replay import Material, Outcome, completions
from skills.evidence import Floats

PAPER_DRAWS = 16
"""The paper draws its recruits; its baseline is the mean over so many draws per question."""
_BINS = 10


def build(given: Material, outcome: Outcome, *, k: int, seed: int) -> dict[str, Any]:
    """The report. `k` is what the baselines ask: as many as the strategy, or the whole calls it may spend."""
    credit = outcome.credit
    beside = _baselines(given, k=k, seed=seed)
    accuracy = statistics.wilson(int(credit.sum()), len(credit))
    assert accuracy is not None
    best = int(np.argmax(np.nan_to_num(given.correct).mean(axis=0)))
    return {
        "n": len(credit),
        "accuracy": round(accuracy.value, 6),
        "ci95": [round(accuracy.low, 6), round(accuracy.high, 6)],
        "mean_calls": round(outcome.mean_calls, 4),
        "mean_tokens": None if given.tokens is None else round(outcome.mean_tokens, 2),
        "paper_at_equal_tokens": _paper_at_equal_tokens(given, outcome, seed=seed),
        "baselines": {name: round(float(values.mean()), 6) for name, values in beside.items()},
        "best_single_expert": given.evidence.experts[best],
        **{f"versus_{name}": difference(credit, values, seed=seed) for name, values in beside.items()},
        "fusion_gain": _fusion_gain(given, outcome, seed=seed),
        "calibration": {
            "experts": calibration(*_expert_forecasts(given, outcome)),
            "fused": calibration([line.confidence for line in outcome.lines], credit),
        },
        "per_category": _per_category(given, credit, beside),
        "off_domain": sum(line.recruitment.off_domain for line in outcome.lines),
        "contamination": {"questions": len(given.contaminated), "ids": list(given.contaminated[:20])},
    }


def difference(credit: Floats, other: Floats, *, seed: int) -> dict[str, Any]:
    """The mean difference, with the interval of the paired bootstrap."""
    estimate = statistics.bootstrap(credit - other, seed=seed)
    assert estimate is not None
    return {"difference": round(estimate.value, 6), "ci95": [round(estimate.low, 6), round(estimate.high, 6)]}


def calibration(forecasts: Sequence[float], came_true: Sequence[float] | Floats) -> dict[str, Any]:
    """Forecasts in ten bins beside what came true, and the expected calibration error (the mean gap between them)."""
    said, was = np.asarray(forecasts, np.float64), np.asarray(came_true, np.float64)
    if not len(said):
        return {"bins": [], "error": None}
    place = np.minimum((said * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "from": round(each / _BINS, 1),
            "n": int((place == each).sum()),
            "said": round(float(said[place == each].mean()), 4),
            "was": round(float(was[place == each].mean()), 4),
        }
        for each in range(_BINS)
        if (place == each).any()
    ]
    error = sum(row["n"] * abs(row["said"] - row["was"]) for row in bins) / len(said)
    return {"bins": bins, "error": round(float(error), 4)}


def _baselines(given: Material, *, k: int, seed: int) -> dict[str, Floats]:
    """Per question, what others would have made of the same answers."""
    judged = _judged(given)
    right = np.nan_to_num(given.correct)
    profiled = np.nan_to_num(np.nanmean(np.vstack([given.evidence.correct, np.zeros((1, right.shape[1]))]), axis=0))
    drawn_from = published.weights(given.evidence, given.asks)
    return {
        "best_single": right[:, int(right.mean(axis=0).argmax())],
        "best_single_by_profile": right[:, int(profiled.argmax())],
        "random": _floats(baselines.random_recruits(row, k=k, seed=seed + n) for n, row in enumerate(judged)),
        "majority_all": _floats(map(baselines.plurality, judged)),
        "paper": published.credit(drawn_from, judged, k=k, draws=PAPER_DRAWS, seed=seed),
        "oracle": _floats(map(baselines.oracle, judged)),
    }


def paper_spending(given: Material, *, mean_tokens: float, seed: int) -> Floats:
    """(n,) the credit of the paper's method where it spends so many tokens per question. Needs texts."""
    taken = completions(given)
    assert taken is not None
    drawn_from = published.weights(given.evidence, given.asks)
    return published.spending(drawn_from, _judged(given), taken, mean=mean_tokens, draws=PAPER_DRAWS, seed=seed)


def _judged(given: Material) -> list[list[Judged]]:
    return [
        [Judged(answer=answer or "", correct=right == 1) for answer, right in zip(answers, correct, strict=True)]
        for answers, correct in zip(given.answers, given.correct, strict=True)
    ]


def _paper_at_equal_tokens(given: Material, outcome: Outcome, *, seed: int) -> dict[str, Any] | None:
    """The paper's method at as many tokens as the strategy took, beside it; None where there are no texts."""
    if given.tokens is None:
        return None
    credit = paper_spending(given, mean_tokens=outcome.mean_tokens, seed=seed)
    return {"accuracy": round(float(credit.mean()), 6), **difference(outcome.credit, credit, seed=seed)}


def _fusion_gain(given: Material, outcome: Outcome, *, seed: int) -> dict[str, Any]:
    """The fused answer beside the first recruit's own: what asking more than one brought."""
    own = np.array(
        [
            np.nan_to_num(given.correct[row, given.evidence.experts.index(line.recruitment.recruits[0].expert)])
            for row, line in enumerate(outcome.lines)
        ],
        np.float32,
    )
    gain = difference(outcome.credit, own, seed=seed)
    return {"first_recruit": round(float(own.mean()), 6), **gain}


def _expert_forecasts(given: Material, outcome: Outcome) -> tuple[list[float], list[float]]:
    """Of every recruit with a probability: what it was said to be, and whether it was right."""
    said, was = [], []
    for row, line in enumerate(outcome.lines):
        for recruit in line.recruitment.recruits:
            right = given.correct[row, given.evidence.experts.index(recruit.expert)]
            if recruit.probability is not None and not np.isnan(right):
                said.append(recruit.probability)
                was.append(float(right))
    return said, was


def _per_category(given: Material, credit: Floats, beside: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, question in enumerate(given.questions):
        rows[question.category or "(none)"].append(row)
    return {
        category: {
            "n": len(rows[category]),
            "accuracy": round(float(credit[rows[category]].mean()), 4),
            "best_single": round(float(beside["best_single"][rows[category]].mean()), 4),
            "paper": round(float(beside["paper"][rows[category]].mean()), 4),
        }
        for category in sorted(rows)
    }


def _floats(values: Iterable[float]) -> Floats:
    return np.array(list(values), np.float32)
