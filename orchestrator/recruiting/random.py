"""The strategy `random`: experts drawn without regard to anything, each at most once. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.recruiting import panel
from orchestrator.recruiting.panel import PanelRecruiter
from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class RandomRecruiter(PanelRecruiter):
    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        columns = panel.columns(self.evidence, experts)
        if not asks:
            return []
        drawn = columns[panel.draw(np.ones((len(asks), len(columns))), k, seeds)]
        recruits = [
            Recruit(expert=name, suitability=0.0, weight=1.0, why="drawn at random") for name in self.evidence.experts
        ]
        return [
            Recruitment(strategy="random", recruits=tuple(recruits[column] for column in chosen)) for chosen in drawn
        ]


def fit(evidence: Evidence) -> Recruiter:
    return RandomRecruiter(evidence=evidence)
