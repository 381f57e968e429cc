"""What others would have made of the same answers: random recruits, the whole pool's majority, the oracle. Pure.

All are unweighted pluralities; a tie counts by the share of right answers among those tied, which is what breaking
it at random gives on average.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

SUBSETS_MAX = 64
"""So many sets of k experts are looked at per line: all of them, where there are no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One expert's answer to one line. `answer` is "" where none could be read."""

    answer: str
    correct: bool


def plurality(answers: Sequence[Judged]) -> float:
    """Expected credit (0 to 1) of the commonest answer. All right answers count as the same one."""
    votes = Counter("\0right" if judged.correct else judged.answer for judged in answers if judged.answer)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return float("\0right" in tied) / len(tied)


def random_recruits(answers: Sequence[Judged], *, k: int, seed: int) -> float:
    """Expected credit of k experts drawn without replacement: over all sets of k, or over 64 seeded draws."""
    k = min(k, len(answers))
    if math.comb(len(answers), k) <= SUBSETS_MAX:
        subsets = list(itertools.combinations(answers, k))
    else:
        rng = Random(seed)
        subsets = [tuple(rng.sample(list(answers), k)) for _ in range(SUBSETS_MAX)]
    return sum(map(plurality, subsets)) / len(subsets)


def oracle(answers: Sequence[Judged]) -> float:
    """1 where anybody is right."""
    return float(any(judged.correct for judged in answers))
