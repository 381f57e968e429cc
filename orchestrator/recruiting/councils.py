"""Sets of experts, and how often the vote of each is right: judged as sets, because who fails together adds nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from skills.evidence import Floats, Masks

Council = tuple[int, ...]
"""Columns of the evidence, ascending."""
KEPT = 128
"""Councils of one size that a question chooses among. All, where there are no more than `ALL`."""
ALL = 400
_SEARCH_ROWS = 1000
INERTIA = 30.0
"""Of weights against being changed when others are absent, as precision: with few profile questions, how votes stand in
for one another is not known well. On recorded data 30 was right more often than 0, 10 and no change at all."""
_CHEAPER = (0.05, 0.25, 0.5, 0.75)
_CHUNK = 64
_CLIP = 30.0


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How votes stand in for one another. Weights are learnt with everybody voting; in a council, who stays takes over
    the weight of the absent that vote alike, as a refit without them would have it (to second order)."""

    weights: Floats
    """(m,) log-odds of each vote when everybody votes."""
    curvature: Floats
    """(m, m) Hessian of the fit."""

    def shifts(self, councils: Sequence[Council]) -> Floats:
        """(councils, m) what each member's weight gains: (H_ss + INERTIA)^-1 H_sr w_r, for members s and absent r."""
        found = np.zeros((len(councils), len(self.weights)), np.float32)
        everybody = set(range(len(self.weights)))
        for row, council in enumerate(councils):
            here, away = list(council), sorted(everybody - set(council))
            if away and here:
                pull = self.curvature[np.ix_(here, away)] @ self.weights[away]
                inert = self.curvature[np.ix_(here, here)] + INERTIA * np.eye(len(here), dtype=np.float32)
                found[row, here] = np.linalg.solve(inert, pull)
        return found


class Table:
    """For any council: the probability that its vote gives the right answer, on every profile question."""

    def __init__(self, *, votes: Masks, weights: Floats, leanings: Floats, right: Masks, overlap: Overlap) -> None:
        """`votes` (n, m, r); log-odds `weights` (n, m) of who gave it and `leanings` (n, r) of each answer."""
        n, m, self._width = votes.shape
        spread = votes.transpose(1, 0, 2)
        self._given = spread.reshape(m, -1).astype(np.float32)
        self._weighed = (spread * weights.T[:, :, None]).reshape(m, -1).astype(np.float32)
        self._leanings = leanings.reshape(-1).astype(np.float32)
        self._right = right.astype(np.float32)
        self._n, self.experts, self.overlap = int(n), m, overlap

    def __len__(self) -> int:
        """Profile questions."""
        return int(self._n)

    def values(self, councils: Sequence[Council]) -> Floats:
        """(n, councils). The probability is kept, not whether it wins: it is the smoother thing to learn from."""
        found = np.empty((self._n, len(councils)), np.float32)
        for start in range(0, len(councils), _CHUNK):
            chunk = councils[start : start + _CHUNK]
            scores, given = self._voted(chunk)
            mass = np.exp(scores) * given
            mass = mass.reshape(len(chunk), self._n, self._width)
            share = (mass * self._right).sum(axis=2) / np.maximum(mass.sum(axis=2), 1e-20)
            found[:, start : start + len(chunk)] = share.T
        return found

    def accuracy(self, councils: Sequence[Council]) -> Floats:
        """(councils,) how often the vote of each is right on the profile questions."""
        found = np.empty(len(councils), np.float32)
        for start in range(0, len(councils), _CHUNK):
            chunk = councils[start : start + _CHUNK]
            scores, given = self._voted(chunk)
            scores = np.where(given, scores, -np.inf).reshape(len(chunk), self._n, self._width)
            winner = scores.argmax(axis=2)
            right = self._right[np.arange(self._n)[None], winner] * np.isfinite(scores.max(axis=2))
            found[start : start + len(chunk)] = right.mean(axis=1)
        return found

    def leads(self, councils: Sequence[Council]) -> Floats:
        """(n,) how far the winner of row n's own council is ahead of the next answer, or of one nobody gave."""
        scores = self._scores(councils)
        best_two = np.sort(np.concatenate([scores, np.full((self._n, 1), -np.inf)], axis=1), axis=1)[:, -2:]
        voted = np.isfinite(best_two[:, 1])
        lead = np.where(voted, best_two[:, 1], 0.0) - np.maximum(best_two[:, 0], 0.0)
        return np.asarray(np.where(voted, lead, -np.inf), np.float32)

    def wins(self, councils: Sequence[Council]) -> Floats:
        """(n,) 1 where the vote of row n's own council is right."""
        scores = self._scores(councils)
        right = self._right[np.arange(self._n), scores.argmax(axis=1)] > 0
        return np.asarray(right & np.isfinite(scores.max(axis=1)), np.float32)

    def _voted(self, councils: Sequence[Council]) -> tuple[Floats, Masks]:
        """(councils, n x r) log-odds of every answer by each council's vote, and whether anybody gave it."""
        members = masks(councils, self.experts).astype(np.float32)
        scores = members @ self._weighed + self.overlap.shifts(councils) @ self._given + self._leanings
        return np.clip(scores, -_CLIP, _CLIP), members @ self._given > 0

    def _scores(self, councils: Sequence[Council]) -> Floats:
        """(n, r) log-odds of the answers that row n's own council gave, -inf for the others."""
        members = masks(councils, self.experts).astype(np.float32)
        distinct = sorted(set(councils))
        place = {council: row for row, council in enumerate(distinct)}
        shifts = self.overlap.shifts(distinct)[[place[council] for council in councils]]
        votes = self._given.reshape(self.experts, self._n, -1)
        given = np.einsum("nm,mnr->nr", members, votes) > 0
        weighed = np.einsum("nm,mnr->nr", members, self._weighed.reshape(self.experts, self._n, -1))
        weighed += np.einsum("nm,mnr->nr", shifts, votes)
        return np.asarray(np.where(given, weighed + self._leanings.reshape(self._n, -1), -np.inf), np.float32)


def masks(councils: Sequence[Council], experts: int) -> Masks:
    """(councils, experts): who sits in which."""
    members = np.zeros((len(councils), experts), bool)
    for row, council in enumerate(councils):
        members[row, list(council)] = True
    return members


def are_few(experts: int, k: int) -> bool:
    """Whether all councils of `k` of so many experts are looked at."""
    return comb(experts, k) <= ALL


def candidates(
    table: Table,
    experts: Sequence[int],
    k: int,
    smooth: Callable[[Floats], Floats],
    *,
    tokens: Floats | None = None,
) -> list[Council]:
    """Councils of `k` of these experts worth choosing among: the best overall, and the best anywhere.

    All of them where they are few; otherwise a beam, grown one expert at a time. `smooth` turns values on (n) profile
    questions into held-out estimates there. With `tokens` (m,) that each expert costs, the best among the cheaper
    councils are kept, too. Linear in experts and in questions.
    """
    if are_few(len(experts), k):
        return list(combinations(experts, k))
    beam: list[Council] = [(expert,) for expert in experts]
    for size in range(2, k + 1):
        grown = sorted({tuple(sorted((*council, each))) for council in beam for each in experts if each not in council})
        beam = _kept(grown, smooth(table.values(grown)), tokens) if len(grown) > KEPT else grown
        assert all(len(council) == size for council in beam)
    return beam


def search_rows(n: int) -> npt.NDArray[np.intp]:
    """Profile questions that the beam is judged on."""
    if n <= _SEARCH_ROWS:
        return np.arange(n)
    return np.sort(np.random.default_rng(1).permutation(n)[:_SEARCH_ROWS])


def _kept(councils: Sequence[Council], values: Floats, tokens: Floats | None) -> list[Council]:
    """The best; and, where councils have costs, the best of the cheaper ones, by several bounds of cost."""
    best = set(_best(councils, values, KEPT))
    if tokens is not None:
        costs = np.array([tokens[list(council)].sum() for council in councils])
        for share in _CHEAPER:
            cheap = np.flatnonzero(costs <= np.quantile(costs, share))
            best |= set(_best([councils[place] for place in cheap], values[:, cheap], KEPT // 4))
    return sorted(best)


def _best(councils: Sequence[Council], values: Floats, kept: int) -> list[Council]:
    """Half by their mean, half by how often they are among a question's eight best."""
    overall = np.argsort(-values.mean(axis=0), kind="stable")[: kept // 2]
    near = np.argpartition(-values, min(8, values.shape[1] - 1), axis=1)[:, :8]
    named = np.bincount(near.ravel(), minlength=len(councils))
    named[overall] = -1
    local = np.argsort(-named, kind="stable")[: kept - len(overall)]
    return [councils[each] for each in sorted({*overall.tolist(), *local.tolist()})]
