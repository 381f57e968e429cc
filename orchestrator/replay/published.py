"""The paper's recruiting as its authors published it, for comparison alone (arXiv 2503.05641, section 3 and its code).

Raw sums of +1 and -1 per skill, the nearest skill whatever its distance, k draws with replacement, an unweighted
majority. The strategy `paper` is the same idea with these mended.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator import baselines
from orchestrator.baselines import Judged
from orchestrator.recruiting.values import Ask
from skills.evidence import Evidence, Floats

_NEAREST = 3
"""Skills taken from a question's own embedding where nobody named any."""


def weights(evidence: Evidence, asks: Sequence[Ask]) -> Floats:
    """(asks, m) what recruits are drawn in proportion to: suitability x competency, where suitability is positive."""
    scores = _scores(evidence)
    total = scores.sum(axis=0)
    shifted = total - total.min() + 1
    competency = shifted**2 / (shifted**2).sum()
    found = np.empty((len(asks), len(evidence.experts)), np.float32)
    for row, ask in enumerate(asks):
        suitability = scores[_mapped(evidence, ask)].sum(axis=0)
        if (suitability > 0).any():
            found[row] = np.maximum(suitability, 0) * competency
        else:
            found[row] = (suitability - suitability.min() + 1) * competency
    return found


def credit(drawn_from: Floats, answers: Sequence[Sequence[Judged]], *, k: int, draws: int, seed: int) -> Floats:
    """(n,) the expected credit of the majority of k experts drawn with replacement, over so many draws."""
    rng = np.random.default_rng(seed)
    found = np.empty(len(answers), np.float32)
    for row, (chances, given) in enumerate(zip(drawn_from.astype(np.float64), answers, strict=True)):
        panels = rng.choice(len(chances), size=(draws, k), p=chances / chances.sum())
        found[row] = np.mean([baselines.plurality([given[column] for column in panel]) for panel in panels])
    return found


def spending(
    drawn_from: Floats, answers: Sequence[Sequence[Judged]], tokens: Floats, *, mean: float, draws: int, seed: int
) -> Floats:
    """(n,) the same where `mean` tokens per question are spent, k and k + 1 experts taking turns to meet it.

    `tokens` (n, m) are the completions'. At least one expert is drawn, whatever it takes.
    """
    chances = drawn_from / drawn_from.sum(axis=1, keepdims=True)
    experts = max(1.0, mean / float((chances * tokens).sum(axis=1).mean()))
    fewer = int(experts)
    share = np.float32(experts - fewer)
    low, high = (credit(drawn_from, answers, k=k, draws=draws, seed=seed) for k in (fewer, fewer + 1))
    return np.asarray((1 - share) * low + share * high, np.float32)


def _scores(evidence: Evidence) -> Floats:
    """(v, m) the profiles: +1 for every right, -1 for every wrong answer to a question that needs the skill."""
    rows = {name: row for row, name in enumerate(evidence.skill_names)}
    scores = np.zeros((max(1, len(rows)), len(evidence.experts)), np.float32)
    marks = np.nan_to_num(2 * evidence.correct - 1)
    for question, mark in zip(evidence.questions, marks, strict=True):
        for name in question.skills:
            if name in rows:
                scores[rows[name]] += mark
        if not rows:
            scores[0] += mark
    return scores


def _mapped(evidence: Evidence, ask: Ask) -> list[int]:
    """Rows of the nearest known skills; row 0, everything, where nothing is known by skill."""
    if evidence.skill_embeddings is None or not len(evidence.skill_names):
        return [0]
    if ask.skill_embeddings is not None and len(ask.skill_embeddings):
        return [int(row) for row in (ask.skill_embeddings @ evidence.skill_embeddings.T).argmax(axis=1)]
    nearest = np.argsort(-(evidence.skill_embeddings @ ask.embedding))[:_NEAREST]
    return [int(row) for row in nearest]
