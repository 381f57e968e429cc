"""What asking an expert is expected to cost, and what one question may cost. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from skills.evidence import Evidence, Floats, Masks

SHRINKAGE = 8.0
"""Imagined answers of the pool's mean length beside an expert's own, so that few answers prove little."""
UNKNOWN_TOKENS = 256.0
"""An answer's length where nobody was ever measured."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What asking one expert is expected to take."""

    tokens: float = 0.0
    """Of its prompt and its completion."""
    answer_s: float = 0.0
    """Seconds from now to its last token, its place in the queue included; its load is not."""
    load_s: float = 0.0
    """Seconds of the load that has to come first; 0: it is resident."""
    model: str = ""
    """What is loaded: experts with the same one share a load."""
    device: str = ""
    """Where: loads on one device follow one another."""

    @property
    def seconds(self) -> float:
        """Alone."""
        return self.load_s + self.answer_s


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one question may cost, and what each expert would. None: not limited."""

    costs: Mapping[str, Cost]
    """Expert -> its cost; who is not named costs nothing."""
    tokens: float | None = None
    seconds: float | None = None

    def of(self, expert: str) -> Cost:
        return self.costs.get(expert, Cost())

    def affords(self, experts: Collection[str]) -> bool:
        """Whether these together are within the limits."""
        return bool(self.fits(tuple(experts), np.ones((1, len(experts)), bool))[0])

    def fits(self, experts: Sequence[str], members: Masks) -> Masks:
        """(c,) for c sets of these experts, `members` (c, len(experts)): whether each is within the limits."""
        within = np.ones(len(members), bool)
        if self.tokens is not None:
            within &= members @ np.array([self.of(name).tokens for name in experts]) <= self.tokens
        if self.seconds is not None:
            within &= self.seconds_of(experts, members) <= self.seconds
        return within

    def seconds_of(self, experts: Sequence[str], members: Masks) -> npt.NDArray[np.float64]:
        """(c,) seconds until everybody in a set has answered.

        Who is resident answers side by side with everybody else. What has to be loaded on one device waits for those
        resident there, then is loaded and answers, one model after another; different devices go side by side.
        """
        costs = [self.of(name) for name in experts]
        slowest = np.zeros(len(members))
        for device in sorted({cost.device for cost in costs}):
            here = [column for column, cost in enumerate(costs) if cost.device == device]
            ready = [column for column in here if not costs[column].load_s]
            total = self._answering(costs, members, ready)
            for model in sorted({costs[column].model for column in here if costs[column].load_s}):
                loaded = [column for column in here if costs[column].load_s and costs[column].model == model]
                load_s = max(costs[column].load_s for column in loaded)
                total = total + load_s * members[:, loaded].any(axis=1) + self._answering(costs, members, loaded)
            slowest = np.maximum(slowest, total)
        return slowest

    def cheapest(self, experts: Sequence[str]) -> str:
        """Who exceeds the limits least, as a share of them; of equals the first."""

        def share(name: str) -> float:
            cost = self.of(name)
            spent = ((cost.tokens, self.tokens), (cost.seconds, self.seconds))
            return max(value / max(limit, 1e-9) for value, limit in spent if limit is not None)

        return min(experts, key=share)

    def without(self, experts: Collection[str]) -> "Limits":
        """What is left once these are asked."""
        names = tuple(experts)
        seconds = float(self.seconds_of(names, np.ones((1, len(names)), bool))[0])
        return replace(
            self,
            tokens=None if self.tokens is None else self.tokens - sum(self.of(name).tokens for name in names),
            seconds=None if self.seconds is None else self.seconds - seconds,
        )

    def reason(self, expert: str) -> str:
        """Why this expert is dear, for people: "not loaded: 40 s"."""
        cost = self.of(expert)
        if self.seconds is not None and cost.load_s:
            return f"not loaded: {cost.seconds:.0f} s"
        if self.seconds is not None and (self.tokens is None or cost.seconds > self.seconds):
            return f"{cost.seconds:.1f} s"
        return f"about {cost.tokens:.0f} tokens"

    def in_words(self) -> str:
        """For people: "12 s and 400 tokens"."""
        parts = [
            f"{self.seconds:.3g} s" if self.seconds is not None else "",
            f"{self.tokens:.0f} tokens" if self.tokens is not None else "",
        ]
        return " and ".join(filter(None, parts))

    @staticmethod
    def _answering(costs: Sequence[Cost], members: Masks, columns: Sequence[int]) -> npt.NDArray[np.float64]:
        """(c,) seconds that the slowest of these columns takes to answer, where it is a member."""
        if not columns:
            return np.zeros(len(members))
        answer_s = np.array([costs[column].answer_s for column in columns])
        return np.asarray((members[:, list(columns)] * answer_s).max(axis=1))


def expected_completions(evidence: Evidence) -> dict[str, float]:
    """Expert -> the tokens that its answer is expected to have."""
    return dict(zip(evidence.experts, completion_tokens(evidence).tolist(), strict=True))


def completion_tokens(evidence: Evidence) -> Floats:
    """(m,) tokens that each expert's answer is expected to have: the mean of those measured, shrunk to the pool's."""
    measured = evidence.tokens
    if measured is None or np.isnan(measured).all():
        return np.full(len(evidence.experts), UNKNOWN_TOKENS, np.float32)
    known = ~np.isnan(measured)
    count = known.sum(axis=0)
    total = np.where(known, measured, 0).sum(axis=0)
    pool = total.sum() / count.sum()
    return np.asarray((total + SHRINKAGE * pool) / (count + SHRINKAGE), np.float32)
