"""The strategy `best_single`: the experts with the highest overall accuracy, whatever is asked. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.recruiting import panel
from orchestrator.recruiting.panel import PanelRecruiter
from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment
from skills import profile
from skills.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class BestSingleRecruiter(PanelRecruiter):
    profiles: profile.Profiles = field(repr=False)

    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        """The best `k` of all; the same for every ask, seeds play no part."""
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
