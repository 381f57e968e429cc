"""The strategy `adaptive`: `posterior`, but few are asked at first, and more only while the vote is unsure.

`k` is the mean number of experts per question to keep to. How sure is sure enough is learnt from the profile questions,
played through with estimates held out. docs/recruiting.md has it in words.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.recruiting import panel, posterior, tally
from orchestrator.recruiting.councils import Council
from orchestrator.recruiting.likeness import Estimate
from orchestrator.recruiting.posterior import Nearness, PosteriorRecruiter
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence, Floats

FIRST_SHARE = 2 / 3
MOST_SHARE = 7 / 3
"""Of the mean k: how many are asked at first, and how many at most. Chosen on recorded data: at a mean of 3, 2 and 7
were right more often than 1, 3 and 5, 9."""
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

    name = "adaptive"

    def recruit(
        self, asks: Sequence[Ask], *, k: int, seeds: Sequence[int], experts: Sequence[str] | None = None
    ) -> list[Recruitment]:
        """The first recruits, keeping to `k` experts per question in the mean; `more` names the others."""
        panel.check(k, asks, seeds)
        return self.recruit_within(asks, mean_calls=float(k), seeds=seeds, experts=experts)

    def recruit_within(
        self, asks: Sequence[Ask], *, mean_calls: float, seeds: Sequence[int], experts: Sequence[str] | None = None
    ) -> list[Recruitment]:
        """As `recruit`; the mean need not be whole."""
        among = tuple(self.evidence.experts[column] for column in panel.columns(self.evidence, experts))
        first = self.pace(mean_calls).first
        found = super().recruit(asks, k=first, seeds=seeds, experts=experts)
        return [dataclasses.replace(each, gain=None, mean_calls=mean_calls, among=among) for each in found]

    def more(self, ask: Ask, recruitment: Recruitment, answered: Sequence[Answered]) -> tuple[Recruit, ...]:
        """The one expert that would make the vote surest to be right, unless it is sure enough. `joined` weighs it."""
        if recruitment.mean_calls is None:
            return ()
        asked = tuple(sorted(self.evidence.experts.index(each.expert) for each in recruitment.recruits))
        left = [
            column
            for column, name in enumerate(self.evidence.experts)
            if column not in asked and (not recruitment.among or name in recruitment.among)
        ]
        if not left:
            return ()
        pace = self.pace(recruitment.mean_calls)
        is_sure = len(asked) >= pace.most or tally.lead(recruitment, answered) >= pace.enough
        if is_sure and recruitment.mean_calls < len(asked) + len(left):
            return ()
        near = self.nearness([ask])
        column = self.next_one(near, 0, asked, left)
        return (self.recruit_of(near, 0, column),)

    def joined(self, recruitment: Recruitment, more: Sequence[Recruit]) -> Recruitment:
        """Votes that stand in for one another are weighed anew."""
        first = tuple(sorted(self.evidence.experts.index(each.expert) for each in recruitment.recruits))
        everybody = tuple(sorted({*first, *(self.evidence.experts.index(each.expert) for each in more)}))
        before, after = self.vote.doubt.scale * self.vote.overlap.shifts([first, everybody])
        recruits = []
        for place, each in enumerate((*recruitment.recruits, *more)):
            column = self.evidence.experts.index(each.expert)
            known = before[column] if place < len(first) else 0.0
            recruits.append(dataclasses.replace(each, weight=each.weight + float(after[column] - known)))
        return dataclasses.replace(recruitment, recruits=tuple(recruits))

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

    def _enough(self, first: int, most: int, mean_calls: float) -> float:
        """The highest lead to wait for that keeps the mean."""
        leads = self.vote.doubt.scale * self._leads(first, most)
        low, high = -_CLIP, _CLIP
        for _ in range(40):
            middle = (low + high) / 2
            stopped = leads >= middle
            stopped[-1] = True
            low, high = (low, middle) if first + stopped.argmax(axis=0).mean() > mean_calls else (middle, high)
        return low

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


def fit(evidence: Evidence) -> Recruiter:
    """As `posterior.fit`; paces and councils are worked out when first needed."""
    fitted = posterior.fit(evidence)
    if not isinstance(fitted, PosteriorRecruiter):
        return fitted
    known = {each.name: getattr(fitted, each.name) for each in dataclasses.fields(fitted)}
    return AdaptiveRecruiter(**known)
