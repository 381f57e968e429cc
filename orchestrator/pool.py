"""The pool: its experts, what they are known to do, and the recruiter fitted on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from skills.evidence import Evidence
from workers.messages import Model, Sampling


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One version of one member of the pool."""

    id: int
    name: str
    version: int
    model: Model
    adapter: str | None = None
    system_prompt: str = ""
    sampling: Sampling = Sampling()
    description: str = ""
    licence: str = ""
    state: str = "live"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Live experts with the evidence about them: what one query, or one run, decides on. Immutable."""

    version: str
    """Changes whenever an expert, a profile or the question set does."""
    experts: Mapping[str, Expert]
    question_set: str
    question_set_version: int
    evidence: Evidence = field(repr=False)
    profile_versions: Mapping[str, int]
    """Expert name -> version of the profile in `evidence`."""
    aggregators: Mapping[str, Mapping[str, tuple[int, int]]]
    """Expert name -> category ("" for all) -> (right, tried) of the synthetic aggregator test."""
