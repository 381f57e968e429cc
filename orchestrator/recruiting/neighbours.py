"""The strategy `neighbours`: the experts that were right most often on the profile questions nearest to this one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.recruiting import ballots, best_single, panel
from orchestrator.recruiting.likeness import OFF_DOMAIN_SIMILARITY
from orchestrator.recruiting.panel import PanelRecruiter
from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment
from skills.evidence import Evidence, Floats

NEIGHBOURS = 40
SHRINKAGE = 10.0
"""Imagined tries at the expert's overall accuracy beside the neighbours' own."""


@dataclass(frozen=True, kw_only=True)
class NeighboursRecruiter(PanelRecruiter):
    """`neighbours`, fitted: nothing but the evidence, and everybody's overall accuracy."""

    correct: Floats = field(repr=False)
    """(n, m), unknown outcomes at the expert's accuracy."""
    overall: Floats
    """(m,)"""

    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        """The `k` with the highest accuracy near the question; their votes weigh as much. Seeds play no part."""
        columns = panel.columns(self.evidence, experts)
        if not asks:
            return []
        cosine = np.stack([ask.embedding for ask in asks]) @ self.evidence.embeddings.T
        off_domain = cosine.max(axis=1) < OFF_DOMAIN_SIMILARITY
        count = min(NEIGHBOURS, cosine.shape[1])
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        closeness = np.square(np.maximum(np.take_along_axis(cosine, nearest, axis=1), 0))
        closeness[off_domain] = 0
        closeness = closeness / np.maximum(closeness.max(axis=1, keepdims=True), 1e-9)
        near = np.einsum("ac,acm->am", closeness, self.correct[nearest])
        accuracy = (near + SHRINKAGE * self.overall) / (closeness.sum(axis=1, keepdims=True) + SHRINKAGE)
        best = columns[np.argsort(-accuracy[:, columns], axis=1, kind="stable")[:, :k]]
        return [
            Recruitment(
                strategy="neighbours",
                recruits=tuple(self._recruit(int(column), float(accuracy[row, column])) for column in best[row]),
                off_domain=bool(off_domain[row]),
                note="no profile question is like this one: chosen by overall accuracy" if off_domain[row] else "",
            )
            for row in range(len(asks))
        ]

    def _recruit(self, column: int, accuracy: float) -> Recruit:
        return Recruit(
            expert=self.evidence.experts[column],
            suitability=accuracy,
            weight=accuracy,
            probability=accuracy,
            why=f"right on {accuracy:.0%} of the questions nearest to this one, {self.overall[column]:.0%} of all",
        )


def fit(evidence: Evidence) -> Recruiter:
    """Nothing to learn but the overall accuracies. Without any profile question it is `best_single`."""
    if not evidence.correct.size:
        return best_single.fit(evidence)
    cast = ballots.read(evidence)
    return NeighboursRecruiter(evidence=evidence, correct=cast.correct, overall=cast.accuracy)
