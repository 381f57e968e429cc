"""How sure a vote is: the scale of its log-odds, and the doubt that anybody is right. From held-out estimates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting import listwise
from orchestrator.recruiting.ballots import Ballots
from orchestrator.recruiting.councils import Overlap
from skills.evidence import Floats, Masks

FOLDS = 5
_SIZES = (1, 2, 3, 5, 8)
"""Councils that doubt is learnt on."""
_SCALES = tuple(step / 20 for step in range(6, 25))
_FAVOUR = 10.0
"""How much likelier stronger experts sit on these councils, as they do on real ones."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    scale: float
    """What log-odds of votes are multiplied by, so that their softmax is a probability."""
    always: float
    per_recruit: float
    per_log_miss: float
    """Times log(1 - probability) of each recruit: the doubt that nobody is right is the sum of the three."""


def folds(n: int) -> npt.NDArray[np.intp]:
    """(n,) the fold of each question."""
    return np.random.default_rng(2).permutation(n) % FOLDS


def fit(cast: Ballots, *, weights: Floats, leanings: Floats, chance: Floats, overlap: Overlap) -> Doubt:
    """From held-out log-odds `weights` (n, m) and `leanings` (n, r), and held-out `chance` (n, m) to be right.

    For every scale, a logistic regression of "none is right" on the council's size and its experts' chances to miss;
    the scale under which all outcomes are likeliest is taken.
    """
    councils = [
        _Councils.draw(cast, weights, leanings, chance, overlap, size) for size in _SIZES if size <= weights.shape[1]
    ]
    fitted = [(_fit_at(scale, councils), scale) for scale in _SCALES]
    (_, terms), scale = min(fitted, key=lambda each: each[0][0])
    return Doubt(scale=scale, always=float(terms[0]), per_recruit=float(terms[1]), per_log_miss=float(terms[2]))


@dataclass(frozen=True, kw_only=True)
class _Councils:
    """One random council for each question on which any of its members gave an answer."""

    scores: npt.NDArray[np.float64]
    """(n, r) log-odds, -inf for answers that nobody of it gave."""
    design: npt.NDArray[np.float64]
    """(n, 3)"""
    right: Masks
    """(n, r)"""

    @classmethod
    def draw(
        cls, cast: Ballots, weights: Floats, leanings: Floats, chance: Floats, overlap: Overlap, size: int
    ) -> "_Councils":
        n, m = weights.shape
        rng = np.random.default_rng(size)
        preferred = _FAVOUR * cast.accuracy + rng.gumbel(size=(n, m))
        seated = (-preferred).argsort(axis=1).argsort(axis=1) < size
        weights = weights + overlap.shifts([tuple(np.flatnonzero(row).tolist()) for row in seated])
        counted = np.asarray(cast.votes & seated[:, :, None])
        given = np.asarray(counted.any(axis=1))
        scores = np.where(given, np.einsum("nmr,nm->nr", counted, weights) + leanings, -np.inf)
        told = np.asarray(given.any(axis=1))
        missed = (np.log1p(-chance) * seated).sum(axis=1)
        return cls(
            scores=scores[told].astype(np.float64),
            design=np.stack([np.ones(n), np.full(n, size), missed], axis=1)[told].astype(np.float64),
            right=np.asarray(given & cast.right)[told],
        )


def _fit_at(scale: float, councils: list[_Councils]) -> tuple[float, npt.NDArray[np.float64]]:
    """The loss of everything that was seen, and the doubt's three terms, at this scale."""
    scores = np.concatenate([each.scores for each in councils]) * scale
    design = np.concatenate([each.design for each in councils])
    right = np.concatenate([each.right for each in councils])
    none = ~np.asarray(right.any(axis=1))
    mass = np.logaddexp.reduce(scores, axis=1)
    terms = listwise.logistic(
        design, -mass, none.astype(np.float64), mean=np.zeros(design.shape[1]), precision=np.ones(design.shape[1])
    )
    doubt = design @ terms
    everything = np.logaddexp(mass, doubt)
    wanted = np.where(none, doubt, np.logaddexp.reduce(np.where(right, scores, -np.inf), axis=1))
    return float((everything - wanted).sum()), terms


Refit = Callable[[npt.NDArray[np.intp]], tuple[Floats, Floats]]


def held_out(n: int, refit: Refit, whole: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Weights and leanings of each fold, as `refit(rows)`, learnt on these rows alone, gives them for all rows."""
    weights, leanings = whole[0].copy(), whole[1].copy()
    fold = folds(n)
    for each in range(FOLDS):
        inside = np.flatnonzero(fold == each)
        found = refit(np.flatnonzero(fold != each))
        weights[inside], leanings[inside] = found[0][inside], found[1][inside]
    return weights, leanings
