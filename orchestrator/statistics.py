"""Intervals for accuracies and their differences. Pure; every draw is seeded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
RESAMPLES = 4000
_BLOCK = 200_000
"""Draws held in memory at once, 16 bytes each: a report is made where runs are driven."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int | list[float]]:
        return {"value": round(self.value, 6), "ci95": [round(self.low, 6), round(self.high, 6)], "n": self.n}


def wilson(right: int, n: int) -> Estimate | None:
    """The share right of n, with Wilson's score interval (1927); None for n = 0."""
    if n == 0:
        return None
    share = right / n
    spread = Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Estimate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def bootstrap(values: Sequence[float] | npt.NDArray[np.floating], *, seed: int) -> Estimate | None:
    """The mean with its percentile bootstrap interval; None for no values.

    Of paired differences it is the paired bootstrap: lines are drawn, and with each line both of its values.
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n == 0:
        return None
    rng = np.random.default_rng(seed)
    per_block = max(1, _BLOCK // n)
    means = np.concatenate(
        [
            data[rng.integers(n, size=(min(per_block, RESAMPLES - done), n))].mean(axis=1)
            for done in range(0, RESAMPLES, per_block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(value=float(data.mean()), low=float(low), high=float(high), n=n)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value of McNemar's test (1947): of the lines on which two disagree, is each as often right?

    1.0 where they never disagree.
    """
    n = only_first + only_second
    fewer = min(only_first, only_second)
    log_half = n * math.log(0.5)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(fewer + 1)
    )
    return min(1.0, 2.0 * tail)
