"""What merging by an aggregator gains over counting votes, learnt from trials on profile questions. Pure.

A trial is a profile question with the answers that its recruits really gave, and what an aggregator made of them. The
gain is estimated along the confidence of the vote, with a prior of none (docs/recruiting.md, "Fusion").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

GAIN_SPREAD = 0.15
"""Prior standard deviation of a gain: 15 points either way, none in the mean."""
REACH = 0.25
"""A trial tells most about votes that are as sure as its own, give or take so much."""
KIND_SHARE = 0.5
"""How much choices tell about free-form questions, and the other way round."""
NOISE_VARIANCE, NOISE_TRIALS = 0.25, 10.0
"""Prior of one trial's variance about the gain, and the trials it counts for."""
_GRID = np.linspace(0.0, 1.0, 21)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One profile question whose recruits' answers were merged."""

    strategy: str
    """The strategy that recruited."""
    confidence: float
    """Of the vote, as `fusion.vote` gives it."""
    is_choice: bool
    """The question has options."""
    vote_right: bool
    first_right: bool
    """The first recruit alone was right."""
    right: bool
    """What came of merging was right: the vote's answer, where the aggregator gave none."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A difference in the probability to be right."""

    mean: float
    error: float
    """One standard error."""

    @property
    def is_clear(self) -> bool:
        return self.mean - self.error > 0

    @property
    def is_loss(self) -> bool:
        return self.mean + self.error < 0

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.error:.2f}"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What merging the answers at hand should gain."""

    over_vote: Gain
    over_first: Gain
    trials: int

    @property
    def is_clear(self) -> bool:
        """Merging is known to be better than the vote and than the first recruit alone."""
        return self.over_vote.is_clear and self.over_first.is_clear


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A gain along the vote's confidence: the posterior of a Gaussian process."""

    confidence: _Floats
    """(n,) of the trials."""
    is_choice: npt.NDArray[np.bool_]
    weights: _Floats
    """(n,)"""
    precision: _Floats
    """(n, n) inverse of the trials' covariance."""

    @classmethod
    def learn(cls, trials: Sequence[Trial], gained: Callable[[Trial], int]) -> Self:
        """`gained`: 1, 0 or -1 of a trial."""
        confidence = np.array([trial.confidence for trial in trials])
        is_choice = np.array([trial.is_choice for trial in trials], np.bool_)
        found = np.array([gained(trial) for trial in trials], np.float64)
        near = _near(confidence, confidence)
        # Where the answers agree merging changes nothing, where they do not it changes much: the noise is a local one.
        noise = (NOISE_TRIALS * NOISE_VARIANCE + near @ found**2) / (NOISE_TRIALS + near.sum(axis=1))
        precision = np.linalg.inv(_covariance(confidence, is_choice, confidence, is_choice) + np.diag(noise))
        return cls(confidence=confidence, is_choice=is_choice, weights=precision @ found, precision=precision)

    def at(self, confidence: float, is_choice: bool) -> Gain:
        """The gain for a vote that is so sure."""
        here = _covariance(np.array([confidence]), np.array([is_choice]), self.confidence, self.is_choice)[0]
        variance = GAIN_SPREAD**2 - here @ self.precision @ here
        return Gain(mean=float(here @ self.weights), error=float(np.sqrt(max(variance, 0.0))))


@dataclass(frozen=True, kw_only=True)
class Merger:
    """One aggregator's curves with one strategy's recruits."""

    over_vote: Curve
    over_first: Curve
    trials: int

    def expected(self, confidence: float, is_choice: bool) -> Expected:
        return Expected(
            over_vote=self.over_vote.at(confidence, is_choice),
            over_first=self.over_first.at(confidence, is_choice),
            trials=self.trials,
        )


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """All that the trials of a pool have shown."""

    mergers: Mapping[tuple[str, str], Merger] = field(default_factory=dict, repr=False)
    """(aggregator, strategy) -> its curves."""

    def merger(self, *, aggregator: str | None, strategy: str) -> Merger | None:
        """None where this aggregator never merged what this strategy's recruits said: confidences do not compare."""
        return self.mergers.get((aggregator or "", strategy))

    def gaining(self, strategy: str) -> tuple[str, ...]:
        """Aggregators that are known to gain on some choices, should the vote be as unsure (or sure) as there."""
        return tuple(
            name
            for (name, of), merger in self.mergers.items()
            if of == strategy and any(merger.expected(float(sure), True).is_clear for sure in _GRID)
        )


NOTHING = Synthesis()


def learn(trials: Mapping[str, Sequence[Trial]]) -> Synthesis:
    """What aggregator -> its trials have shown."""
    mergers = {}
    for name, own in trials.items():
        for strategy in sorted({trial.strategy for trial in own}):
            of = [trial for trial in own if trial.strategy == strategy]
            mergers[name, strategy] = Merger(
                over_vote=Curve.learn(of, lambda trial: trial.right - trial.vote_right),
                over_first=Curve.learn(of, lambda trial: trial.right - trial.first_right),
                trials=len(of),
            )
    return Synthesis(mergers=mergers)


def _near(confidence: _Floats, others: _Floats) -> _Floats:
    return np.asarray(np.exp(-(((confidence[:, None] - others[None]) / REACH) ** 2) / 2))


def _covariance(
    confidence: _Floats, is_choice: npt.NDArray[np.bool_], others: _Floats, others_choice: npt.NDArray[np.bool_]
) -> _Floats:
    """Half of a gain is the same at every confidence, half changes with it."""
    alike = np.where(is_choice[:, None] == others_choice[None], 1.0, KIND_SHARE)
    return np.asarray(GAIN_SPREAD**2 * alike * (1 + _near(confidence, others)) / 2)
