"""How one line of a run is to be answered: as the run says, or as the line's own chat request asks. Pure."""

from dataclasses import dataclass

from orchestrator import annotation, prompts
from orchestrator.online.query import Query
from orchestrator.pool.pool import Expert
from orchestrator.runs.pinned import Pinned
from skills.question import Question
from workers.messages import Sampling


@dataclass(frozen=True, kw_only=True)
class Recruiting:
    """What lines must have in common to be recruited for together."""

    strategy: str
    k: int
    experts: tuple[str, ...] | None = None
    """Among these only; None: among all of the run's."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One line's."""

    recruiting: Recruiting
    fusion: str
    annotator: str | None
    """The expert that names skills; None: the embedding does."""
    aggregator: str | None
    """The expert that was asked for as aggregator; None: chosen by the aggregator test."""
    calls: int | None = None
    """Generations that may be spent in all, the aggregator's included; None: any number."""
    query: Query | None = None

    def asked(self, question: Question, expert: Expert) -> prompts.Asked:
        """What the expert is asked."""
        return question if self.query is None else self.query.asked(max_tokens=expert.sampling.max_tokens)

    def sampling(self, expert: Expert, *, recruits: int) -> Sampling:
        """A recruit's sampling: its own, within the budget; the client's for one that answers alone."""
        if self.query is None:
            return expert.sampling
        limited = self._limited(expert, recruits)
        is_single = self.query.is_single(recruits=recruits, calls=self.calls)
        return self.query.sampling(limited) if is_single else limited

    def fused_sampling(self, expert: Expert, *, recruits: int) -> Sampling:
        """The aggregator's: the client's wishes are for the fused answer."""
        return expert.sampling if self.query is None else self.query.sampling(self._limited(expert, recruits))

    def calls_left(self, *, made: int, is_adaptive: bool) -> int | None:
        """Experts that may still be asked, an aggregator's call kept back; None: any number.

        A `k` that was asked for is kept to; to an adaptive strategy it is a mean, and only a budget of calls binds it.
        """
        if self.query is None or self.calls is None:
            return None
        if is_adaptive and self.query.options.budget.calls is None:
            return None
        if self.query.options.k is not None and not is_adaptive:
            return 0
        return max(0, self.calls - made - 1)

    def _limited(self, expert: Expert, recruits: int) -> Sampling:
        assert self.query is not None
        generations = recruits + 1 if self.calls is None else min(self.calls, recruits + 1)
        return self.query.limited(expert.sampling, generations=generations)


def of(pinned: Pinned, query: Query | None) -> Terms:
    """The terms of a line of a run that pinned this."""
    if query is None:
        return Terms(
            recruiting=Recruiting(strategy=pinned.strategy, k=pinned.k),
            fusion=pinned.fusion,
            annotator=pinned.annotator if pinned.annotation == "llm" else None,
            aggregator=pinned.aggregator,
        )
    query = query.fused_by(pinned.fusion)
    options = query.options
    available = len(options.experts) if options.experts else len((pinned.pool or {}).get("experts", ()))
    calls = options.budget.calls if options.budget.calls is not None else (options.k or available) + 1
    wanted = options.k if options.k is not None else min(pinned.k, available)
    by_llm = options.strategy in annotation.LLM_STRATEGIES or pinned.annotation == "llm"
    return Terms(
        recruiting=Recruiting(
            strategy=options.strategy or pinned.strategy, k=min(wanted, calls), experts=options.experts
        ),
        fusion=options.fusion or pinned.fusion,
        annotator=pinned.annotator if by_llm else None,
        aggregator=options.aggregator or pinned.aggregator,
        calls=calls,
        query=query,
    )
