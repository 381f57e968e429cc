"""What the stager knows of a run: its pins, its pool, its fitted recruiters. Built once per run, then kept."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.online.needs import Needs
from orchestrator.pool import pool
from orchestrator.pool.cache import PoolCache
from orchestrator.pool.pool import Expert, Pool
from orchestrator.pool.question_sets import TextEmbedder
from orchestrator.recruiting.limits import UNKNOWN_TOKENS, expected_completions
from orchestrator.recruiting.values import Recruiter
from orchestrator.runs.pinned import Pinned, seed_for
from orchestrator.storage.tables import ExpertRow, RunRow

CONTEXTS_KEPT = 32

_QUARANTINED = sa.text(
    "SELECT name FROM expert WHERE id = ANY(CAST(:ids AS int[])) AND (state = 'quarantined' OR set_aside)"
)


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run, and all that its stages need to decide."""

    run_id: str
    kind: str
    pinned: Pinned
    experts: dict[str, Expert]
    """The experts of the run, as pinned."""
    pool: Pool | None
    recruiters: PoolCache
    panel: frozenset[int]
    """Positions of the lines on which every expert answers, for the baselines."""
    embedder: Callable[[], TextEmbedder]

    def recruiter(self, strategy: str) -> Recruiter:
        """The strategy, fitted on the run's pool."""
        assert self.pool is not None
        return self.recruiters.recruiter(self.pool, strategy)

    def needs(self) -> Needs:
        """The vocabulary of the run's pool."""
        assert self.pool is not None
        return self.recruiters.needs(self.pool)

    @cached_property
    def completion_tokens(self) -> Mapping[str, float]:
        """Expert -> the tokens that its answer is expected to have, by its profile."""
        measured = {} if self.pool is None else expected_completions(self.pool.evidence)
        return {name: measured.get(name, UNKNOWN_TOKENS) for name in self.experts}

    @property
    def embeds_in(self) -> str | None:
        """The stage that begins with the embedding of the question; None if an LLM's work comes first."""
        recruits = self.kind in ("benchmark", "batch")
        return "annotate" if recruits and self.pinned.annotator is None else None

    def quarantined(self, session: Session) -> set[str]:
        """Experts of the run, as pinned, that were set aside since it was submitted."""
        ids = [expert.id for expert in self.experts.values()]
        return set(session.scalars(_QUARANTINED, params={"ids": ids}).all())


class Contexts:
    """Contexts by run. Runs that pinned the same pool and strategy share the fitted recruiter."""

    def __init__(self, *, load_embedder: Callable[[], TextEmbedder]) -> None:
        self._load_embedder = load_embedder
        self._recruiters = PoolCache()
        self._kept: OrderedDict[str, Context] = OrderedDict()

    def of(self, session: Session, run: RunRow) -> Context:
        """The run's context."""
        if run.id not in self._kept:
            self._kept[run.id] = self._build(session, run)
            while len(self._kept) > CONTEXTS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(run.id)
        return self._kept[run.id]

    def _build(self, session: Session, run: RunRow) -> Context:
        pinned = Pinned.model_validate(run.pinned)
        members = None if pinned.pool is None else pool.pinned(session, pinned.pool)
        if members is not None:
            experts = dict(members.experts)
        else:
            row = session.get_one(ExpertRow, pinned.expert_id)
            experts = {row.name: pool.expert_of(row)}
        return Context(
            run_id=run.id,
            kind=run.kind,
            pinned=pinned,
            experts=experts,
            pool=members,
            recruiters=self._recruiters,
            panel=panel(pinned),
            embedder=self._load_embedder,
        )


def panel(pinned: Pinned) -> frozenset[int]:
    """Positions of the lines that the whole pool answers: drawn with the run's seed, the same every time."""
    if pinned.baselines is None:
        return frozenset()
    if pinned.baselines.lines >= pinned.lines:
        return frozenset(range(pinned.lines))
    drawn = Random(seed_for(pinned.seed, "baselines")).sample(range(pinned.lines), pinned.baselines.lines)
    return frozenset(drawn)


def is_adaptive(recruiter: Recruiter) -> bool:
    """Whether the strategy may recruit more experts once it has seen answers."""
    return type(recruiter).more is not Recruiter.more
