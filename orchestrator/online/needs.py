"""The skills a question needs, for people and for the choice of an aggregator, whatever the strategy recruits by."""

from dataclasses import dataclass

import numpy as np

from orchestrator.recruiting.values import Ask, MatchedSkill
from skills import match, profile
from skills.evidence import Evidence, Floats
from skills.profile import Profiles


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The vocabulary of one pool's evidence."""

    profiles: Profiles
    vocabulary_embeddings: Floats | None
    evidence: Evidence

    def of(self, ask: Ask) -> tuple[MatchedSkill, ...]:
        """From its annotated keywords if any is known, else by its own embedding; none, if nothing is like it."""
        skills = self.profiles.skills
        (found,) = match.keywords([ask.skills], [ask.skill_embeddings], skills, self.vocabulary_embeddings)
        if not found:
            (found,) = match.questions(
                np.stack([ask.embedding]),
                needs=self.profiles.needs,
                skills=len(skills),
                profile_embeddings=self.evidence.embeddings,
                vocabulary_embeddings=self.vocabulary_embeddings,
            )
        return tuple(
            MatchedSkill(skill=skills[each.skill], similarity=each.similarity, keyword=each.keyword) for each in found
        )


def read(evidence: Evidence) -> Needs:
    """The needs that this evidence knows."""
    profiles = profile.profiles(evidence)
    known = evidence.skill_embeddings if profiles.skills == evidence.skill_names else None
    return Needs(profiles=profiles, vocabulary_embeddings=known, evidence=evidence)
