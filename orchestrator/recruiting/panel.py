"""Who may be recruited, drawing from them, and keeping to limits: what every strategy needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.values import Ask, NoExperts, Recruit, Recruiter, Recruitment, spent
from skills.evidence import Evidence

Columns = npt.NDArray[np.intp]


def columns(evidence: Evidence, experts: Sequence[str] | None) -> Columns:
    """The evidence's columns of the experts that may be recruited, in the evidence's order. Raises `NoExperts`."""
    if not evidence.experts:
        raise NoExperts(
            "no expert is live: add one to experts.toml, or see `muster experts list` for what holds them up"
        )
    wanted = None if experts is None else set(experts)
    found = [column for column, name in enumerate(evidence.experts) if wanted is None or name in wanted]
    if not found:
        raise NoExperts(f"none of these experts is live: {', '.join(experts or ()) or '(none named)'}")
    return np.array(found, np.intp)


def generator(seed: int) -> np.random.Generator:
    """Any integer seeds one, negative ones too."""
    return np.random.default_rng(seed % 2**64)


def draw(weights: npt.NDArray[np.floating], k: int, seeds: Sequence[int]) -> npt.NDArray[np.intp]:
    """(a, k) columns drawn without replacement in proportion to the rows of `weights` (a, m), all positive.

    By exponential races (Efraimidis and Spirakis 2006): the smallest of Exp(1)/weight wins, which is the same as
    drawing one after another among those left.
    """
    races = np.stack([generator(seed).exponential(size=weights.shape[1]) for seed in seeds])
    return np.argsort(races / weights, axis=1, kind="stable")[:, :k]


def check(k: int, asks: Sequence[object], seeds: Sequence[int]) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if len(asks) != len(seeds):
        raise ValueError(f"one seed per ask: {len(seeds)} seeds for {len(asks)} asks")


@dataclass(frozen=True, kw_only=True)
class PanelRecruiter(Recruiter):
    """A strategy that minds no limits when it chooses: it is kept within them here."""

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        """What the strategy chooses where that is within `limits`.

        Elsewhere it chooses again among those who are within them alone, and the longest beginning of that which is
        within them together is kept.
        """
        check(k, asks, seeds)
        found = self._choose(k, asks, seeds, experts)
        if limits is None or not asks:
            return found
        names = affordable(limits, [self.evidence.experts[column] for column in columns(self.evidence, experts)])
        over = [row for row, each in enumerate(found) if not limits.affords(_names(each.recruits))]
        again = self._choose(k, [asks[row] for row in over], [seeds[row] for row in over], names) if over else []
        for row, each in zip(over, again, strict=True):
            kept = each.recruits[:1]
            while len(kept) < len(each.recruits) and limits.affords(_names(each.recruits[: len(kept) + 1])):
                kept = each.recruits[: len(kept) + 1]
            found[row] = told(replace(each, recruits=kept), limits, instead_of=found[row].recruits)
        return [each if each.left is not None else told(each, limits, instead_of=each.recruits) for each in found]

    def _choose(
        self, k: int, asks: Sequence[Ask], seeds: Sequence[int], experts: Sequence[str] | None
    ) -> list[Recruitment]:
        """At most `k` experts for each ask, among those named, at any cost."""
        raise NotImplementedError


def affordable(limits: Limits, names: Sequence[str]) -> list[str]:
    """Who is within the limits alone; the cheapest if nobody is."""
    return [name for name in names if limits.affords([name])] or [limits.cheapest(names)]


def told(recruitment: Recruitment, limits: Limits, *, instead_of: Sequence[Recruit]) -> Recruitment:
    """The recruitment with its costs, what is left after it, and what the limits changed, in words.

    `instead_of`: who would have been recruited without limits.
    """
    names = _names(recruitment.recruits)
    out = [name for name in _names(instead_of) if name not in names]
    missing = ", ".join(f"{name} ({limits.reason(name)})" for name in out)
    if not limits.affords(names):
        note = f"no expert is within {limits.in_words()}: the cheapest was asked ({limits.reason(names[0])})"
    else:
        note = f"within {limits.in_words()}, so without {missing}" if out else ""
    usual = _names(instead_of)
    recruits = tuple(
        replace(
            each,
            tokens=limits.of(each.expert).tokens,
            seconds=limits.of(each.expert).seconds,
            why=each.why if each.expert in usual or not out else f"{each.why}; in place of {missing}",
        )
        for each in recruitment.recruits
    )
    return replace(
        recruitment,
        recruits=recruits,
        left=spent(limits, recruits),
        note="; ".join(filter(None, (recruitment.note, note))),
    )


def _names(recruits: Sequence[Recruit]) -> list[str]:
    return [recruit.expert for recruit in recruits]
