"""Strategies by name. Adding one: a file with a `fit(evidence)`, and a line here."""

from orchestrator.recruiting import adaptive, best_single, neighbours, paper, posterior, random
from orchestrator.recruiting.values import Recruiter, Strategies, Strategy
from skills.evidence import Evidence

STRATEGIES: Strategies = {
    "posterior": posterior.fit,
    "adaptive": adaptive.fit,
    "neighbours": neighbours.fit,
    "paper": paper.fit,
    "best_single": best_single.fit,
    "random": random.fit,
}


class UnknownStrategy(ValueError):
    """There is no strategy of this name."""


def known(name: str) -> Strategy:
    """The strategy of this name. Raises `UnknownStrategy`."""
    if name not in STRATEGIES:
        raise UnknownStrategy(f"unknown strategy {name!r}: there are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def fit(name: str, evidence: Evidence) -> Recruiter:
    """The recruiter of strategy `name`, fitted on `evidence`. Raises `UnknownStrategy`."""
    return known(name)(evidence)
