"""The strategy `paper`: suitability x competency, as Symbolic-MoE recruits (arXiv 2503.05641), its defects mended.

Mended: profiles are shrunk accuracies and not sums that grow with a skill's frequency; matching has a similarity
floor; experts are drawn without replacement; draws are seeded, ask by ask.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting import panel
from orchestrator.recruiting.panel import PanelRecruiter
from orchestrator.recruiting.values import Ask, MatchedSkill, Recruit, Recruiter, Recruitment
from skills import match, profile
from skills.evidence import Evidence, Floats

_EPSILON = 1e-3
"""What the least suitable expert keeps when all are shifted to be positive."""
_LAST_RESORT = 1e-12
_OFF_DOMAIN = "no profile question is like this one: recruited by overall competency"
_BY_QUESTION = "none of the skills named is in the vocabulary: matched by the question itself"

Matches = Sequence[tuple[match.Match, ...]]


@dataclass(frozen=True, kw_only=True)
class PaperRecruiter(PanelRecruiter):
    profiles: profile.Profiles = field(repr=False)
    vocabulary_embeddings: Floats | None = field(repr=False)

    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        """Draw `k` experts per ask in proportion to suitability x competency; the weightiest is named first."""
        columns = panel.columns(self.evidence, experts)
        if not asks:
            return []
        by_keyword, matches = self._match(asks)
        suitability = self._suitability(matches)[:, columns]
        weights = _weights(suitability, self.profiles.competency()[columns])
        drawn = panel.draw(weights, k, seeds)
        order = np.argsort(-np.take_along_axis(weights, drawn, axis=1), axis=1, kind="stable")
        drawn = np.take_along_axis(drawn, order, axis=1)
        return [
            self._recruitment(ask, matches[row], columns[drawn[row]], suitability[row, drawn[row]], by_keyword[row])
            for row, ask in enumerate(asks)
        ]

    def _match(self, asks: Sequence[Ask]) -> tuple[list[bool], list[tuple[match.Match, ...]]]:
        """Each ask's skills: from its keywords if any of them is known, else from its own embedding."""
        matches = match.keywords(
            [ask.skills for ask in asks],
            [ask.skill_embeddings for ask in asks],
            self.profiles.skills,
            self.vocabulary_embeddings,
        )
        by_keyword = [bool(found) for found in matches]
        rest = [row for row, found in enumerate(matches) if not found]
        if rest:
            found = match.questions(
                np.stack([asks[row].embedding for row in rest]),
                needs=self.profiles.needs,
                skills=len(self.profiles.skills),
                profile_embeddings=self.evidence.embeddings,
                vocabulary_embeddings=self.vocabulary_embeddings,
            )
            for row, own in zip(rest, found, strict=True):
                matches[row] = own
        return by_keyword, matches

    def _suitability(self, matches: Matches) -> npt.NDArray[np.float64]:
        """(a, m): each expert's scores summed over the mapped skills; the overall score where nothing is mapped."""
        score = self.profiles.score().astype(np.float64)
        rows = np.repeat(np.arange(len(matches)), [len(found) for found in matches])
        skills = np.array([each.skill for found in matches for each in found], np.intp)
        suitability = np.zeros((len(matches), len(self.profiles.experts)))
        np.add.at(suitability, rows, score[skills])
        unmatched = [row for row, found in enumerate(matches) if not found]
        suitability[unmatched] = 2 * self.profiles.overall() - 1
        return suitability

    def _recruitment(
        self,
        ask: Ask,
        matches: tuple[match.Match, ...],
        chosen: panel.Columns,
        suitability: npt.NDArray[np.float64],
        by_keyword: bool,
    ) -> Recruitment:
        note = _OFF_DOMAIN if not matches else _BY_QUESTION if ask.skills and not by_keyword else ""
        return Recruitment(
            strategy="paper",
            recruits=tuple(
                Recruit(
                    expert=self.profiles.experts[column],
                    suitability=float(own),
                    weight=_vote_weight(float(own), len(matches)),
                    why=self._why(int(column), matches),
                )
                for column, own in zip(chosen, suitability, strict=True)
            ),
            skills=tuple(
                MatchedSkill(skill=self.profiles.skills[each.skill], similarity=each.similarity, keyword=each.keyword)
                for each in matches
            ),
            off_domain=not matches,
            note=note,
        )

    def _why(self, column: int, matches: tuple[match.Match, ...]) -> str:
        skills = Counter(each.skill for each in matches)
        return ", ".join(
            [self.profiles.in_words(skill, column) for skill in skills] + [self.profiles.overall_in_words(column)]
        )


def fit(evidence: Evidence) -> Recruiter:
    profiles = profile.profiles(evidence)
    known = evidence.skill_embeddings if profiles.skills == evidence.skill_names else None
    return PaperRecruiter(evidence=evidence, profiles=profiles, vocabulary_embeddings=known)


def _weights(suitability: npt.NDArray[np.float64], competency: Floats) -> npt.NDArray[np.float64]:
    """(a, m) suitability x competency, positive.

    Where nobody's suitability is positive, all are shifted to be. Else the unsuitable keep next to nothing: they are
    drawn only when the suitable ones are too few.
    """
    shifted = suitability - suitability.min(axis=1, keepdims=True) + _EPSILON
    somebody = (suitability > 0).any(axis=1, keepdims=True)
    return np.where(suitability > 0, suitability, np.where(somebody, _LAST_RESORT * shifted, shifted)) * competency


def _vote_weight(suitability: float, matched: int) -> float:
    """The expert's mean shrunk accuracy on the skills needed, so 0 to 1.

    Suitability x competency would let one expert overrule all others: it votes worse (ADR 0021).
    """
    return max(_EPSILON, (1 + suitability / max(1, matched)) / 2)
