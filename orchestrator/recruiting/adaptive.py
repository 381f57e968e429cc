"""The strategy `adaptive`: `posterior`, but few are asked at first, and more only while the vote is unsure.

`k` is the mean number of experts per question to keep to. How sure is sure enough is learnt from the profile questions,
played through with estimates held out. docs/recruiting.md has it in words.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting import panel, posterior, tally
from orchestrator.recruiting.councils import Council, masks
from orchestrator.recruiting.likeness import Estimate
from orchestrator.recruiting.limits import Cost, Limits
from orchestrator.recruiting.posterior import Nearness, PosteriorRecruiter
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment, spent
from skills.evidence import Evidence, Floats

FIRST_SHARE = 2 / 3
MOST_SHARE = 7 / 3
"""Of the mean k: how many are asked at first, and how many at most. Chosen on recorded data: at a mean of 3, 2 and 7
were right more often than 1, 3 and 5, 9."""
FIRST_MOST = 4
"""Asked at first at most, where tokens are what is kept to."""
PAIR = 2
"""Asked at first wherever the mean allows: one expert alone cannot be disagreed with, which tells little."""
_CLIP = 30.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a mean number of calls is kept."""

    first: int
    most: int
    enough: float
    """A lead, in log-odds, that ends the asking."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveRecruiter(PosteriorRecruiter):
    """`adaptive`, fitted."""

    next_to: dict[Council, Estimate] = field(default_factory=dict, repr=False)
    """Council -> (·, m) how good it is with each expert added. A cache, as `paces` is."""
    paces: dict[float, Pace] = field(default_factory=dict, repr=False)
    thrifts: dict[tuple[float, tuple[float, ...]], float] = field(default_factory=dict, repr=False)
    """Mean tokens and what each expert takes -> a lead, in log-odds, that ends the asking."""

    name = "adaptive"

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """The first recruits, keeping to `k` experts per question in the mean; `more` names the others.

        `limits` bind every question, with all that are asked for it.
        """
        panel.check(k, asks, seeds)
        return self.recruit_within(asks, mean_calls=float(k), seeds=seeds, experts=experts, limits=limits)

    def recruit_within(
        self,
        asks: Sequence[Ask],
        *,
        mean_calls: float,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """As `recruit`; the mean need not be whole."""
        among = tuple(self.evidence.experts[column] for column in panel.columns(self.evidence, experts))
        first = self.pace(mean_calls).first
        found = super().recruit(asks, k=first, seeds=seeds, experts=experts, limits=limits)
        return [dataclasses.replace(each, gain=None, mean_calls=mean_calls, among=among) for each in found]

    def recruit_spending(
        self, asks: Sequence[Ask], *, mean_tokens: float, costs: Mapping[str, Cost], seeds: Sequence[int]
    ) -> list[Recruitment]:
        """The first recruits, keeping to so many tokens per question in the mean, whatever that makes of experts."""
        self.thrift(mean_tokens, costs)
        limits = Limits(costs=costs, tokens=mean_tokens * FIRST_SHARE)
        found = super().recruit(asks, k=min(FIRST_MOST, len(self.evidence.experts)), seeds=seeds, limits=limits)
        whole = dataclasses.replace(limits, tokens=mean_tokens * MOST_SHARE)
        return [
            dataclasses.replace(each, gain=None, note="", mean_tokens=mean_tokens, left=spent(whole, each.recruits))
            for each in found
        ]

    def more(self, ask: Ask, recruitment: Recruitment, answered: Sequence[Answered]) -> tuple[Recruit, ...]:
        """The one expert that would make the vote surest to be right, unless it is sure enough. `joined` weighs it."""
        if recruitment.mean_calls is None and recruitment.mean_tokens is None:
            return ()
        asked = tuple(sorted(self.evidence.experts.index(each.expert) for each in recruitment.recruits))
        left = [
            column
            for column, name in enumerate(self.evidence.experts)
            if column not in asked and (not recruitment.among or name in recruitment.among)
        ]
        if not left or self._is_enough(recruitment, answered, experts=len(asked) + len(left)):
            return ()
        budget = recruitment.left
        if budget is not None:
            left = [column for column in left if budget.affords([self.evidence.experts[column]])]
        if not left:
            return ()
        near = self.nearness([ask])
        column = self.next_one(near, 0, asked, left)
        recruit = self.recruit_of(near, 0, column)
        if budget is not None:
            cost = budget.of(recruit.expert)
            recruit = dataclasses.replace(recruit, tokens=cost.tokens, seconds=cost.seconds)
        return (recruit,)

    def _is_enough(self, recruitment: Recruitment, answered: Sequence[Answered], *, experts: int) -> bool:
        """Whether the answers are sure enough for the mean that is to be kept."""
        lead = tally.lead(recruitment, answered)
        if recruitment.mean_tokens is not None:
            assert recruitment.left is not None
            return lead >= self.thrift(recruitment.mean_tokens, recruitment.left.costs)
        assert recruitment.mean_calls is not None
        pace = self.pace(recruitment.mean_calls)
        is_sure = len(recruitment.recruits) >= pace.most or lead >= pace.enough
        return is_sure and recruitment.mean_calls < experts

    def next_one(self, near: Nearness, row: int, asked: Council, left: Sequence[int]) -> int:
        """The column, among those left, whose joining helps most near this question."""
        values = self._next_to(asked).at(near.kernel[row : row + 1])[0]
        return max(left, key=lambda column: (values[column], -column))

    def pace(self, mean_calls: float) -> Pace:
        """How to keep to `mean_calls`: played through on the profile questions."""
        if mean_calls not in self.paces:
            m = len(self.evidence.experts)
            first = min(m, max(min(PAIR, math.floor(mean_calls)), math.floor(mean_calls * FIRST_SHARE + 1e-9)))
            most = min(m, max(first, math.ceil(mean_calls * MOST_SHARE - 1e-9)))
            self.paces[mean_calls] = Pace(first=first, most=most, enough=self._enough(first, most, mean_calls))
        return self.paces[mean_calls]

    def thrift(self, mean_tokens: float, costs: Mapping[str, Cost]) -> float:
        """The lead that ends the asking where so many tokens per question are to be kept to in the mean."""
        tokens = tuple(costs[name].tokens for name in self.evidence.experts)
        key = (mean_tokens, tokens)
        if key not in self.thrifts:
            leads, spending = self._spending(mean_tokens, np.array(tokens, np.float32))
            self.thrifts[key] = _enough(self.vote.doubt.scale * leads, spending, mean_tokens)
        return self.thrifts[key]

    def _enough(self, first: int, most: int, mean_calls: float) -> float:
        """The highest lead to wait for that keeps the mean."""
        leads = self.vote.doubt.scale * self._leads(first, most)
        calls = np.broadcast_to(np.arange(first, most + 1)[:, None], leads.shape)
        return _enough(leads, calls, mean_calls)

    def _spending(self, mean_tokens: float, tokens: Floats) -> tuple[Floats, Floats]:
        """Leads and tokens spent, each (steps, n), on profile questions as experts join within what may be spent."""
        table, m = self.search_table, len(tokens)
        most = mean_tokens * MOST_SHARE
        seated: list[Council] = [(int(tokens.argmin()),)] * len(table)
        best = np.full(len(table), -np.inf)
        for size in range(1, min(FIRST_MOST, m) + 1):
            choice = self.choice(tuple(range(m)), size, is_frugal=True)
            fits = masks(choice.councils, m) @ tokens <= mean_tokens * FIRST_SHARE
            if not fits.any():
                break
            held_out = self.searcher.fit(table.values(choice.councils), ridge=choice.values.ridge).held_out
            values = np.where(fits, held_out + choice.offset, -np.inf)
            for row in np.flatnonzero(values.max(axis=1) > best):
                best[row], seated[row] = values[row].max(), choice.councils[values[row].argmax()]
        leads, spending = [], []
        while True:
            leads.append(table.leads(seated))
            spending.append(masks(seated, m) @ tokens)
            grown = list(seated)
            for council in set(seated):
                left = most - tokens[list(council)].sum()
                free = [column for column in range(m) if column not in council and tokens[column] <= left]
                if free:
                    rows = [row for row, each in enumerate(seated) if each == council]
                    gains = self._next_to(council).held_out[np.ix_(rows, free)]
                    for row, winner in zip(rows, gains.argmax(axis=1), strict=True):
                        grown[row] = tuple(sorted((*council, free[winner])))
            if grown == seated:
                return np.stack(leads), np.stack(spending)
            seated = grown

    def _leads(self, first: int, most: int) -> Floats:
        """(most - first + 1, n) the winner's lead on profile questions as experts join one by one."""
        table = self.search_table
        choice = self.choice(tuple(range(table.experts)), first)
        held_out = self.searcher.fit(table.values(choice.councils), ridge=choice.values.ridge).held_out
        seated = [choice.councils[best] for best in held_out.argmax(axis=1)]
        leads = [table.leads(seated)]
        for _ in range(first, most):
            for council in set(seated):
                rows = [row for row, each in enumerate(seated) if each == council]
                gains = self._next_to(council).held_out[rows]
                gains[:, list(council)] = -np.inf
                for row, column in zip(rows, gains.argmax(axis=1), strict=True):
                    seated[row] = tuple(sorted((*council, int(column))))
            leads.append(table.leads(seated))
        return np.stack(leads)

    def _next_to(self, council: Council) -> Estimate:
        if council not in self.next_to:
            joined = [tuple(sorted({*council, column})) for column in range(self.table.experts)]
            self.next_to[council] = self.searcher.fit(self.search_table.values(joined), relative=True)
        return self.next_to[council]


def _enough(leads: Floats, spending: npt.NDArray[np.number], mean: float) -> float:
    """The highest lead to wait for so that what was `spending` (steps, n) at the first step with it keeps the mean."""
    low, high = -_CLIP, _CLIP
    everybody = np.arange(leads.shape[1])
    for _ in range(40):
        middle = (low + high) / 2
        stopped = leads >= middle
        stopped[-1] = True
        low, high = (low, middle) if spending[stopped.argmax(axis=0), everybody].mean() > mean else (middle, high)
    return low


def fit(evidence: Evidence) -> Recruiter:
    """As `posterior.fit`; paces and councils are worked out when first needed."""
    fitted = posterior.fit(evidence)
    if not isinstance(fitted, PosteriorRecruiter):
        return fitted
    known = {each.name: getattr(fitted, each.name) for each in dataclasses.fields(fitted)}
    return AdaptiveRecruiter(**known)
