"""How strong each expert is on each skill: counted from evidence, and shrunk so that few tries prove little."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skills.evidence import Evidence, Floats

SHRINKAGE = 8.0
"""Imagined tries, at the expert's overall accuracy, that every skill's count starts from. Chosen on recorded outputs
of 11 models: 8 recruited better than 2, 4 and 16 (ADR 0021)."""
_PRIOR = 0.5
"""Overall accuracy before any try."""


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """The profiles of m experts over v skills. Columns are in the order of `experts`."""

    experts: tuple[str, ...]
    skills: tuple[str, ...]
    """v names: the vocabulary, or the categories where no question has skills."""
    needs: npt.NDArray[np.intp]
    """(p, 2): a question's row and a skill that it needs; sorted by skill."""
    right: Floats
    """(v, m) tries on questions that need the skill, answered correctly."""
    tried: Floats
    """(v, m) tries."""
    all_right: Floats
    """(m,) over all questions."""
    all_tried: Floats

    def overall(self) -> Floats:
        """(m,) accuracy over all questions, shrunk towards one half."""
        return np.asarray((self.all_right + SHRINKAGE * _PRIOR) / (self.all_tried + SHRINKAGE), np.float32)

    def accuracy(self) -> Floats:
        """(v, m) accuracy per skill, shrunk towards the expert's overall one."""
        return np.asarray((self.right + SHRINKAGE * self.overall()) / (self.tried + SHRINKAGE), np.float32)

    def score(self) -> Floats:
        """(v, m) strength from -1 (always wrong) to 1 (always right).

        The paper sums +1 and -1 per question instead, which mixes skill with how often a keyword occurs: 3 right of 3
        would lose to 20 right of 34.
        """
        return np.asarray(2 * self.accuracy() - 1, np.float32)

    def competency(self) -> Floats:
        """(m,) strength overall, summing to 1: the mean accuracy over all skills, squared (the paper's power 1/0.5)."""
        mean = self.accuracy().mean(axis=0) if self.skills else self.overall()
        powered = mean**2
        return np.asarray(powered / max(float(powered.sum()), 1e-12), np.float32)

    def in_words(self, skill: int, expert: int) -> str:
        """For people: "algebra 8/10"."""
        right, tried = self.right[skill, expert], self.tried[skill, expert]
        return f"{self.skills[skill]} {right:.0f}/{tried:.0f}" if tried else f"{self.skills[skill]} untried"

    def overall_in_words(self, expert: int) -> str:
        """For people: "overall 0.61"."""
        tried = self.all_tried[expert]
        return f"overall {self.all_right[expert] / tried:.2f}" if tried else "not profiled yet"


def profiles(evidence: Evidence) -> Profiles:
    """Count right answers and tries per skill; questions that an expert was never asked count for nothing."""
    skills = evidence.skill_names or tuple(
        sorted({skill for question in evidence.questions for skill in question.skills})
    )
    needed: Sequence[Sequence[str]] = [question.skills for question in evidence.questions]
    if not skills:
        skills = tuple(sorted({question.category for question in evidence.questions if question.category}))
        needed = [(question.category,) if question.category else () for question in evidence.questions]
    index = {skill: column for column, skill in enumerate(skills)}
    pairs = [
        (row, index[skill]) for row, names in enumerate(needed) for skill in dict.fromkeys(names) if skill in index
    ]
    needs = np.array(sorted(pairs, key=lambda pair: pair[1]), np.intp).reshape(-1, 2)
    asked = ~np.isnan(evidence.correct)
    correct = np.where(asked, evidence.correct, 0).astype(np.float32)
    right = np.zeros((len(skills), len(evidence.experts)), np.float32)
    tried = np.zeros_like(right)
    np.add.at(right, needs[:, 1], correct[needs[:, 0]])
    np.add.at(tried, needs[:, 1], asked[needs[:, 0]].astype(np.float32))
    return Profiles(
        experts=evidence.experts,
        skills=skills,
        needs=needs,
        right=right,
        tried=tried,
        all_right=correct.sum(axis=0, dtype=np.float32),
        all_tried=asked.sum(axis=0, dtype=np.float32),
    )
