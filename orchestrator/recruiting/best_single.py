"""The strategy `best_single`: the experts with the highest overall accuracy, whatever is asked. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from orchestrator.recruiting import panel
from orchestrator.recruiting.costs import Limits
from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment
from skills import profile
from skills.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class BestSingleRecruiter(Recruiter):
    profiles: profile.Profiles = field(repr=False)

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """The best `k` of all; the same for every ask, seeds play no part."""
        panel.check(k, asks, seeds)
        return panel.within(limits, self.evidence, partial(self._choose, k), asks, seeds, experts)

    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        columns = panel.columns(self.evidence, experts)
        overall = self.profiles.overall()
        best = columns[np.argsort(-overall[columns], kind="stable")[:k]]
        recruits = tuple(
            Recruit(
                expert=self.evidence.experts[column],
                suitability=float(overall[column]),
                weight=float(overall[column]),
                probability=float(overall[column]),
                why=self.profiles.overall_in_words(int(column)),
            )
            for column in best
        )
        return [Recruitment(strategy="best_single", recruits=recruits) for _ in asks]


def fit(evidence: Evidence) -> Recruiter:
    return BestSingleRecruiter(evidence=evidence, profiles=profile.profiles(evidence))
