"""Conditional logit (McFadden 1974): which answer of those given is right, from what speaks for each. Pure numpy."""

import numpy as np
import numpy.typing as npt

from skills.evidence import Floats, Masks

Doubles = npt.NDArray[np.float64]
_STEPS = 30
_SETTLED = 1e-5


def fit(design: Floats, given: Masks, right: Masks, *, mean: Doubles, precision: Doubles) -> Doubles:
    """The weights (p,) that make the right answers likeliest, given a Gaussian prior (`mean`, `precision`).

    `design` (n, r, p) says what speaks for each of r candidates; `given` and `right` (n, r) which candidates somebody
    gave, and which of them are right. Questions where all or none of those given are right teach nothing.
    Minimises -sum log softmax(design @ weights)[right] + sum precision (weights - mean)^2 / 2 by Newton's method:
    it is convex, so the answer is unique.
    """
    telling = np.asarray((given & right).any(axis=1) & (given & ~right).any(axis=1))
    features = design[telling].astype(np.float64)
    given, right = given[telling], (given & right)[telling]
    weights = mean.astype(np.float64)
    loss = _loss(features, given, right, weights, mean, precision)
    for _ in range(_STEPS if len(features) else 0):
        step = _newton_step(features, given, right, weights, mean, precision)
        length = 1.0
        while True:
            tried = weights - length * step
            new_loss = _loss(features, given, right, tried, mean, precision)
            if new_loss <= loss or length < 1e-3:
                break
            length /= 2
        settled = abs(loss - new_loss) < _SETTLED
        weights, loss = tried, new_loss
        if settled:
            break
    return weights


def curvature(design: Floats, given: Masks, right: Masks, *, weights: Doubles, precision: Doubles) -> Doubles:
    """(p, p) the Hessian of what `fit` minimises, at `weights`: which weights stand in for one another."""
    telling = np.asarray((given & right).any(axis=1) & (given & ~right).any(axis=1))
    return _hessian(design[telling].astype(np.float64), given[telling], weights, precision)


def softmax(scores: npt.NDArray[np.floating], given: Masks) -> Doubles:
    """(n, r) probabilities over the given candidates; zero for the others, and everywhere if none is given."""
    highest = np.where(given, scores, -1e30).max(axis=1, keepdims=True)
    lifted = np.where(given, np.exp(np.where(given, scores - highest, 0)), 0)
    return np.asarray(lifted / np.maximum(lifted.sum(axis=1, keepdims=True), 1e-300), np.float64)


def logistic(design: Doubles, offset: Doubles, outcome: Doubles, *, mean: Doubles, precision: Doubles) -> Doubles:
    """Weights (p,) of a logistic regression with an offset and a Gaussian prior, by Newton's method."""
    weights = mean.copy()
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights + offset, -30, 30)))
        gradient = design.T @ (chance - outcome) + precision * (weights - mean)
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < _SETTLED:
            break
    return weights


def _loss(features: Doubles, given: Masks, right: Masks, weights: Doubles, mean: Doubles, precision: Doubles) -> float:
    scores = features @ weights
    prior = float((precision * (weights - mean) ** 2).sum()) / 2
    if not len(features):
        return prior
    everything = np.logaddexp.reduce(np.where(given, scores, -np.inf), axis=1)
    wanted = np.logaddexp.reduce(np.where(right, scores, -np.inf), axis=1)
    return float((everything - wanted).sum()) + prior


def _newton_step(
    features: Doubles, given: Masks, right: Masks, weights: Doubles, mean: Doubles, precision: Doubles
) -> Doubles:
    """One right candidate per question is the rule; several share the credit evenly in the gradient."""
    share = softmax(features @ weights, given)
    target = right / right.sum(axis=1, keepdims=True)
    gradient = np.einsum("nr,nrp->p", share - target, features) + precision * (weights - mean)
    return np.linalg.solve(_hessian(features, given, weights, precision), gradient)


def _hessian(features: Doubles, given: Masks, weights: Doubles, precision: Doubles) -> Doubles:
    share = softmax(features @ weights, given)
    expected = np.einsum("nr,nrp->np", share, features)
    p = features.shape[2]
    weighted = (features * share[:, :, None]).reshape(-1, p)
    return np.asarray(weighted.T @ features.reshape(-1, p) - expected.T @ expected + np.diag(precision), np.float64)
